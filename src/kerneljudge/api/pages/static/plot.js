// Draws the timing samples that the page carries as JSON: their distribution, and their order.
"use strict";

(() => {
  const plot = document.getElementById("plot");
  const narrow = matchMedia("(max-width: 640px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const quantile = (values, share) =>
    [...values].sort((one, other) => one - other)[Math.ceil(share * (values.length - 1))];

  function draw() {
    const data = document.getElementById("samples-data");
    if (data === null) return;
    const kernels = JSON.parse(data.textContent);
    const largest = Math.max(...kernels.flatMap((kernel) => kernel.samples));
    // In the unit in which the numbers are easy to read.
    const [unit, factor] = largest < 1 ? ["µs", 1000] : largest < 1000 ? ["ms", 1] : ["s", 0.001];
    const values = kernels.map((kernel) => kernel.samples.map((sample) => sample * factor));
    const all = values.flat();
    const low = Math.min(...all);
    // Rare runs that took far longer would squeeze all others into one bar.
    const high = Math.max(...values.map((times) => quantile(times, 0.98)));
    const beyond = all.filter((time) => time > high).length;
    const width = (high - low) / 50;
    const traces = kernels.flatMap((kernel, index) => {
      const name = kernel.name;
      const paint = colour(name === "Reference" ? "--reference" : "--candidate");
      return [
        {
          type: "histogram", x: values[index], name, legendgroup: name, opacity: 0.65,
          marker: { color: paint }, hovertemplate: `%{y} runs in %{x} ${unit}<extra>${name}</extra>`,
          ...(width > 0 ? { xbins: { start: low, end: high + width, size: width } } : {}),
        },
        {
          type: "scatter", mode: "markers", x: values[index].map((_, run) => run + 1), y: values[index],
          name, legendgroup: name, showlegend: false, xaxis: "x2", yaxis: "y2",
          marker: { color: paint, size: 5, opacity: 0.75 },
          hovertemplate: `run %{x}: %{y:.4g} ${unit}<extra>${name}</extra>`,
        },
      ];
    });
    const line = { gridcolor: colour("--border"), zerolinecolor: colour("--border"), automargin: true };
    const stacked = narrow.matches;
    const layout = {
      barmode: "overlay", bargap: 0.04,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--muted"), family: getComputedStyle(document.body).fontFamily, size: 12 },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--border"), font: { color: colour("--text") } },
      legend: { orientation: "h", x: 0, y: 1.04, yanchor: "bottom" },
      margin: { l: 62, r: 24, t: 48, b: 60 },
      xaxis: { ...line, domain: stacked ? [0, 1] : [0, 0.46], anchor: "y", title: { text: `time of a run (${unit})${beyond > 0 ? `; ${beyond} took longer` : ""}`, standoff: 8 } },
      yaxis: { ...line, domain: stacked ? [0.58, 1] : [0, 1], title: { text: "runs" } },
      xaxis2: { ...line, domain: stacked ? [0, 1] : [0.54, 1], anchor: "y2", title: { text: "run", standoff: 8 } },
      yaxis2: { ...line, domain: stacked ? [0, 0.42] : [0, 1], anchor: "x2", rangemode: "tozero", title: { text: unit } },
    };
    plot.hidden = false;
    Plotly.react(plot, traces, layout, { responsive: true, displayModeBar: false });
  }

  let drawn = "";
  function drawIfNew() {
    const text = document.getElementById("samples-data")?.textContent ?? "";
    if (text !== drawn) draw();
    drawn = text;
  }
  drawIfNew();
  document.addEventListener("page:refreshed", drawIfNew);
  narrow.addEventListener("change", draw);
  dark.addEventListener("change", draw);
})();
