import { Component, useEffect, useRef } from "@odoo/owl";
import { cookie } from "@web/core/browser/cookie";
import { getCustomColor } from "@web/core/colors/colors";

const { DateTime } = luxon;
const TIMES = { millisecond: "TT", second: "TT", minute: "t", hour: "t" };
// Of a line on a light and on a dark page: each is told from its ground and from the others.
const COLORS = [
    ["#017e84", "#3ad0d6"],
    ["#9a5b13", "#f0b35e"],
];
const MOST_ROWS = 24; // of the table that a screen reader is given

/** Lines over time; their figures are a table inside of the canvas, which screen readers read. */
export class DayChart extends Component {
    static template = "redis_session_ormcache.DayChart";
    static props = {
        title: String,
        series: Array, // of { label, points: [[seconds since the epoch, value]] }
        format: Function, // a value's text
        isRatio: { type: Boolean, optional: true }, // of values from 0 to 1, near to 1
    };

    setup() {
        this.canvas = useRef("canvas");
        useEffect(
            () => {
                this.chart = new Chart(this.canvas.el, this.config);
                return () => this.chart.destroy();
            },
            () => []
        );
        useEffect(
            () => {
                this.chart.data.datasets = this.datasets;
                this.chart.update();
            },
            () => [JSON.stringify(this.props.series)]
        );
    }

    get datasets() {
        const scheme = cookie.get("color_scheme");
        return this.props.series.map(({ label, points }, index) => {
            const color = getCustomColor(scheme, ...COLORS[index]);
            return {
                label,
                data: points.map(([time, value]) => ({ x: time * 1000, y: value })),
                borderColor: color,
                backgroundColor: color,
                borderWidth: 2,
                pointRadius: points.length > 1 ? 0 : 3,
                pointHitRadius: 10,
                tension: 0.2,
            };
        });
    }

    get config() {
        const scheme = cookie.get("color_scheme");
        const color = getCustomColor(scheme, "#374151", "#E4E4E4");
        const grid = { color: getCustomColor(scheme, "#e7e9ed", "#3C3E4B") };
        const border = { display: false };
        const format = (value) => this.props.format(value);
        return {
            type: "line",
            data: { datasets: this.datasets },
            options: {
                animation: false,
                maintainAspectRatio: false,
                interaction: { mode: "index", intersect: false },
                plugins: {
                    legend: {
                        display: this.props.series.length > 1,
                        position: "bottom",
                        labels: { color, boxHeight: 2, boxWidth: 16 },
                    },
                    tooltip: {
                        callbacks: {
                            label: ({ dataset, parsed }) => `${dataset.label}: ${format(parsed.y)}`,
                        },
                    },
                },
                scales: {
                    x: {
                        type: "time",
                        grid: { display: false },
                        border,
                        ticks: { color, maxRotation: 0, autoSkipPadding: 24 },
                        time: { tooltipFormat: "f", displayFormats: TIMES },
                    },
                    y: {
                        beginAtZero: !this.props.isRatio,
                        max: this.props.isRatio ? 1 : undefined,
                        grid,
                        border,
                        ticks: { color, maxTicksLimit: 5, callback: format },
                    },
                },
            },
        };
    }

    /** Rows of figures, evenly over the time shown. */
    get rows() {
        const [first, ...others] = this.props.series;
        const step = Math.ceil(first.points.length / MOST_ROWS) || 1;
        return first.points
            .map(([time, value], index) => ({
                time: DateTime.fromSeconds(time).toLocaleString(DateTime.TIME_SIMPLE),
                values: [value, ...others.map(({ points }) => points[index][1])],
            }))
            .filter((_row, index) => (first.points.length - 1 - index) % step === 0);
    }
}
