"""The terms of the back office, and their translations."""

import re

import polib
import pytest

from stack import translations

LANGUAGES = ["de", "fr", "zh_CN"]


def test_the_template_is_what_odoo_exports(postgres):
    """Else run dev/translations."""
    assert translations.TEMPLATE.read_text() == translations.export(postgres)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_term_is_translated(language):
    """With the same placeholders, and no term that is not there any more."""
    template = {entry.msgid for entry in polib.pofile(str(translations.TEMPLATE))}
    entries = polib.pofile(str(translations.TEMPLATE.with_name(f"{language}.po")))
    assert {entry.msgid for entry in entries if entry.msgstr and not entry.fuzzy} == template
    for entry in entries:
        assert placeholders(entry.msgid) == placeholders(entry.msgstr), entry.msgid


def placeholders(text):
    """In any order: languages differ in that."""
    return sorted(re.findall(r"%(?:\(\w+\))?s", text))
