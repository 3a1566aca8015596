import { Component, onWillDestroy, onWillStart, useExternalListener, useState } from "@odoo/owl";
import { loadBundle } from "@web/core/assets";
import { browser } from "@web/core/browser/browser";
import { ConfirmationDialog } from "@web/core/confirmation_dialog/confirmation_dialog";
import { _t } from "@web/core/l10n/translation";
import { ConnectionLostError } from "@web/core/network/rpc";
import { registry } from "@web/core/registry";
import { KeepLast } from "@web/core/utils/concurrency";
import { useService } from "@web/core/utils/hooks";
import { Layout } from "@web/search/layout";
import { formatFloat, formatInteger, formatPercentage } from "@web/views/fields/formatters";
import { standardActionServiceProps } from "@web/webclient/actions/action_service";

import { DayChart } from "./day_chart";

const { DateTime } = luxon;
const INTERVAL = 10000; // milliseconds between two refreshes
const ICONS = {
    success: "fa-check-circle",
    info: "fa-info-circle",
    warning: "fa-exclamation-triangle",
    danger: "fa-times-circle",
};

/** Settings > Technical > Redis. All figures and texts come from the model `redis.overview`. */
export class RedisOverview extends Component {
    static template = "redis_session_ormcache.Overview";
    static components = { DayChart, Layout };
    static props = { ...standardActionServiceProps };

    setup() {
        this.orm = useService("orm");
        this.dialog = useService("dialog");
        this.notification = useService("notification");
        this.icons = ICONS;
        this.display = { controlPanel: {} };
        this.keepLast = new KeepLast();
        this.state = useState({
            userId: this.props.action.context?.redis_user_id || false,
            verdict: null,
            announced: "",
            counters: false,
        });
        onWillStart(() => Promise.all([loadBundle("web.chartjs_lib"), this.refresh()]));
        useExternalListener(document, "visibilitychange", () => this.refresh());
        onWillDestroy(() => {
            this.isOver = true;
            browser.clearTimeout(this.timer);
        });
    }

    /** Ask for all figures now, and again after a while; not while nobody looks. */
    async refresh() {
        browser.clearTimeout(this.timer);
        if (document.hidden || this.isOver) {
            return;
        }
        try {
            const params = { user_id: this.state.userId };
            const found = await this.keepLast.add(
                this.orm.silent.call("redis.overview", "read_overview", [], params)
            );
            this.announce(found.verdict);
            Object.assign(this.state, found);
        } catch (error) {
            if (!(error instanceof ConnectionLostError)) {
                throw error;
            }
            const text = _t(
                "Odoo does not answer, or it answers HTTP 503 because Redis is away. Figures below are those of its last answer."
            );
            this.announce({ level: "danger", finding: "lost", text });
        }
        this.timer = browser.setTimeout(() => this.refresh(), INTERVAL);
    }

    /** Show a verdict. A screen reader is told when it is another, and not of each millisecond. */
    announce(verdict) {
        if (verdict.finding !== this.state.verdict?.finding) {
            this.state.announced = verdict.text;
        }
        this.state.verdict = verdict;
    }

    showAllUsers() {
        this.state.userId = false;
        return this.refresh();
    }

    get moreUsers() {
        return _t(
            "Users who were active earlier: %s. The form of a user leads to their sessions.",
            formatInteger(this.state.users.more)
        );
    }

    logOutLabel(user) {
        return _t("Log out %s everywhere", user.name);
    }

    logOut(user) {
        this.dialog.add(ConfirmationDialog, {
            title: _t("Log out everywhere"),
            body: _t(
                "All sessions of %s end now, on all nodes. The session that you use here stays.",
                user.name
            ),
            confirmLabel: _t("Log out"),
            confirm: async () => {
                const count = await this.orm.call("redis.overview", "log_out", [user.id]);
                this.notification.add(_t("Sessions that ended: %s", count), { type: "success" });
                await this.refresh();
            },
            cancel: () => {},
        });
    }

    purge() {
        this.dialog.add(ConfirmationDialog, {
            title: _t("Purge the cache"),
            body: _t(
                "All processes forget the cached values of this database and compute them anew, so the next requests are slower. Sessions stay."
            ),
            confirmLabel: _t("Purge"),
            confirm: async () => {
                await this.orm.call("redis.overview", "purge", []);
                this.notification.add(_t("The cache is purged."), { type: "success" });
            },
            cancel: () => {},
        });
    }

    get counters() {
        const { users, sessions, hit_ratio, seconds_saved, answers_503 } = this.state.counters;
        const digits = [false, seconds_saved < 100 ? 1 : 0];
        return [
            {
                id: "users",
                label: _t("Users online"),
                value: formatInteger(users),
                note: _t("now"),
            },
            {
                id: "sessions",
                label: _t("Sessions"),
                value: formatInteger(sessions),
                note: _t("now"),
            },
            {
                id: "hit_ratio",
                label: _t("Hit ratio"),
                value: hit_ratio ? this.percent(hit_ratio[1]) : "–",
                note: hit_ratio && _t("%s without Redis", this.percent(hit_ratio[0])),
            },
            {
                id: "seconds_saved",
                label: _t("Time saved"),
                value: _t("%s s", formatFloat(seconds_saved, { digits })),
                note: _t("in 24 hours"),
            },
            {
                id: "answers_503",
                label: _t("Answers 503"),
                value: formatInteger(answers_503),
                note: _t("in 24 hours"),
                class: answers_503 ? "text-danger" : "",
            },
        ];
    }

    get hitRatios() {
        const points = (column) => this.state.history.map((point) => [point[0], point[column]]);
        return [
            { label: _t("In the process or in Redis"), points: points(2) },
            { label: _t("In the process"), points: points(1) },
        ];
    }

    get latencies() {
        const points = this.state.latency.map(([time, seconds]) => [time, seconds * 1000]);
        return [{ label: _t("Milliseconds"), points }];
    }

    ago(seconds) {
        return DateTime.now().minus({ seconds }).toRelative();
    }

    milliseconds(value) {
        return _t("%s ms", formatFloat(value, { digits: [false, 2] }));
    }

    percent(value) {
        return formatPercentage(value, { digits: [false, 1] });
    }

    seconds(value) {
        return formatFloat(value, { digits: [false, 2] });
    }

    integer(value) {
        return formatInteger(value);
    }

    /** ["odoo.addons.base.models.ir_qweb", "IrQweb._generate_code_cached"] */
    methodName(name) {
        const parts = name.split(".");
        return [parts.slice(0, -2).join("."), parts.slice(-2).join(".")];
    }
}

registry.category("actions").add("redis_session_ormcache.overview", RedisOverview);
