"""``deploy/containers``, held against schemas, and against what Odoo and the addon read."""

import re
import subprocess

import pytest
import yaml

from odoo.addons.redis_session_ormcache.config import Settings
from stack.deployment import DEPLOY, NGINX
from stack.provision import environment

CONTAINERS = DEPLOY / "containers"
COMPOSE, KUBERNETES = CONTAINERS / "compose.yaml", CONTAINERS / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.glob("*.yaml") if path.stem != "kustomization")
OF_THE_IMAGE = {"HOST", "PORT", "USER", "PASSWORD"}  # its entrypoint makes options of these


def run(program, *words):
    """A validator of the virtualenv."""
    argv = [environment.python().with_name(program), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_compose_is_valid():
    """By the schema of the Compose specification."""
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_valid(manifest):
    """By the schemas of Kubernetes, without anything that they do not know."""
    done = run("kubernetes-validate", "--strict", manifest)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout + done.stderr


def test_kustomize_has_all_files():
    """Each manifest is a resource, and each pod's settings are generated."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in MANIFESTS]
    generated = {
        each["name"]
        for each in kustomization["configMapGenerator"] + kustomization["secretGenerator"]
    }
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            for container in _containers(document):
                names = {ref["name"] for source in container["envFrom"] for ref in source.values()}
                assert names == generated


def test_kustomize_builds_what_kubernetes_takes(tmp_path):
    """All manifests with their settings, in one stream; each is valid."""
    argv = [*environment.runnable(environment.binary("kubectl")), "kustomize", KUBERNETES]
    built = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    stream = tmp_path / "all.yaml"
    stream.write_text(built.stdout)
    done = run("kubernetes-validate", "--strict", stream)
    assert done.returncode == 0, done.stdout + done.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    generated = {each["metadata"]["name"] for each in documents if "data" in each}
    containers = [each for document in documents for each in _containers(document)]
    sources = [source for each in containers for source in each["envFrom"]]
    used = {ref["name"] for source in sources for ref in source.values()}
    # Their names end with a hash of their content, so that a change of it replaces the pods.
    assert len(used) == 2
    assert used == generated
    assert {each["metadata"].get("namespace", "odoo") for each in documents} == {"odoo"}


def _containers(document):
    if document["kind"] != "Deployment":
        return []
    return document["spec"]["template"]["spec"]["containers"]


def _variables():
    """Of all services and pods."""
    found = set()
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        if service["image"] == "odoo-redis":
            found |= set(service["environment"])
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    [settings] = kustomization["configMapGenerator"]
    found |= {literal.partition("=")[0] for literal in settings["literals"]}
    found |= {line.partition("=")[0] for line in (KUBERNETES / "secret.env").read_text().split()}
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            for container in _containers(document):
                found |= {variable["name"] for variable in container.get("env", [])}
    return found


def test_each_variable_is_read():
    """By the image, by Odoo, or by the addon: an unknown one would do nothing."""
    from odoo.tools import config

    of_odoo = {option.env_name for option in config.options_index.values()}
    of_addon = {f"ODOO_REDIS_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert _variables() - OF_THE_IMAGE - of_odoo - of_addon == set()


def test_compose_gives_nginx_all_its_files():
    """And a list of nodes with the names that the others have."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    mounted = {volume.split(":")[1] for volume in services["nginx"]["volumes"]}
    included = set(
        re.findall(r"include (/etc/nginx/odoo/\w+\.conf);", (NGINX / "odoo.conf").read_text())
    )
    assert included <= mounted
    hosts = re.findall(r"server ([\w-]+):", (CONTAINERS / "upstreams.conf").read_text())
    assert set(hosts) <= set(services)
    names = re.findall(r"upstream (\w+)", (NGINX / "upstreams.conf").read_text())
    assert re.findall(r"upstream (\w+)", (CONTAINERS / "upstreams.conf").read_text()) == names


def test_probes_do_not_ask_what_may_be_away():
    """An outage of Redis or PostgreSQL takes no pod out."""
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            for container in _containers(document):
                for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                    if probe := container.get(kind):
                        assert probe["httpGet"]["path"] == "/web/health"
