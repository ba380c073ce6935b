// The chart of the last hour. The server says which series there are; this file only draws them.
"use strict";

(() => {
  const HOUR = 3600;
  // A daemon that has just begun has little to show, and shows it large.
  const LEAST = 300;
  // Distances of the labels, which tell no seconds.
  const MINUTES = [1, 2, 5, 10, 15, 30].map((minutes) => minutes * 60);
  const box = document.getElementById("chart");
  const key = document.getElementById("chart-key");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let labels = [];
  let data = [];
  let plot;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const clock = (seconds) =>
    new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

  function writeKey(index) {
    const at = index ?? data[0].length - 1;
    labels.forEach((label, i) => {
      const value = data[i + 1][at];
      key.children[i].lastChild.textContent = `${label} ${value == null ? "–" : `${Math.round(value)} %`}`;
    });
  }

  function buildKey() {
    key.replaceChildren(
      ...labels.map((_, i) => {
        const item = document.createElement("li");
        const swatch = document.createElement("span");
        swatch.className = `swatch s${(i % 4) + 1}`;
        item.append(swatch, document.createElement("span"));
        return item;
      }),
    );
    writeKey();
  }

  function draw() {
    plot?.destroy();
    const grid = { stroke: css("--line"), width: 1 };
    const axis = { stroke: css("--ink-3"), font: `11px ${css("--sans")}`, grid, ticks: { show: false } };
    const range = () => {
      const now = data[0][data[0].length - 1] ?? Date.now() / 1000;
      return [Math.max(now - HOUR, Math.min(data[0][0] ?? now, now - LEAST)), now];
    };
    plot = new uPlot(
      {
        width: box.clientWidth,
        height: box.clientHeight,
        legend: { show: false },
        cursor: { y: false, points: { size: 6 } },
        scales: { x: { range }, y: { range: [0, 100] } },
        axes: [
          { ...axis, grid: { show: false }, values: (_, splits) => splits.map(clock), incrs: MINUTES, space: 80, size: 28 },
          { ...axis, values: (_, splits) => splits.map((v) => `${v} %`), splits: [0, 50, 100], size: 48 },
        ],
        series: [
          {},
          ...labels.map((label, i) => ({
            label,
            stroke: css(`--series-${(i % 4) + 1}`),
            width: 1.6,
            points: { show: false },
          })),
        ],
        hooks: { setCursor: [(u) => writeKey(u.cursor.idx)] },
      },
      data,
      box,
    );
  }

  async function load() {
    const response = await fetch(box.dataset.history);
    if (!response.ok) return;
    const history = await response.json();
    labels = history.labels;
    data = [history.at, ...history.values];
    buildKey();
    draw();
  }

  document.addEventListener("sample", (event) => {
    const sample = JSON.parse(event.detail.data);
    // A card that came or went changes the series.
    if (sample.values.length !== labels.length) return void load();
    if (sample.at <= data[0][data[0].length - 1]) return;
    data[0].push(sample.at);
    sample.values.forEach((value, i) => data[i + 1].push(value));
    while (data[0][0] < sample.at - HOUR) data.forEach((column) => column.shift());
    plot.setData(data);
    if (plot.cursor.idx == null) writeKey();
  });
  // After a pause in the background the missed samples are on the server.
  document.addEventListener("htmx:sse:after:connection", load);
  dark.addEventListener("change", draw);
  new ResizeObserver(() => plot?.setSize({ width: box.clientWidth, height: box.clientHeight })).observe(box);
})();
