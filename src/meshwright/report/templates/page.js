(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;

  // A figure names its colours by CSS variable; plotly wants them resolved.
  const coloured = (value, css, key) => {
    if (Array.isArray(value)) return value.map((item) => coloured(item, css, key));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item, css, name)]));
    if (typeof value === "string" && key.endsWith("color") && value.startsWith("--"))
      return css.getPropertyValue(value).trim();
    return value;
  };

  const axis = (css, own) => ({
    gridcolor: css.getPropertyValue("--grid").trim(), linecolor: css.getPropertyValue("--line").trim(),
    zeroline: false, automargin: true, fixedrange: touch, ...own,
  });

  const draw = () => {
    const css = getComputedStyle(document.documentElement);
    for (const [id, figure] of Object.entries(figures)) {
      const place = document.getElementById(id);
      const own = coloured(figure.layout, css, "");
      const layout = {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css.getPropertyValue("--soft").trim() },
        margin: { l: 8, r: 12, t: 8, b: 8 }, height: figure.height, hovermode: "closest",
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal" },
        dragmode: touch ? false : "zoom",
        ...own, xaxis: axis(css, own.xaxis), yaxis: axis(css, own.yaxis),
      };
      Plotly.react(place, coloured(figure.data, css, ""), layout, {
        responsive: true, displayModeBar: false,
      });
    }
  };
  draw();
  dark.addEventListener("change", draw);
})();
