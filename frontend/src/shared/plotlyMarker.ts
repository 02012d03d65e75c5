/**
 * Plotly, and the map library within it, add inline <style> elements, which a strict
 * Content-Security-Policy refuses. Both leave them out where an element of the style's id is there
 * already; styles/plotly.css has the rules that our figures need. Import this before Plotly itself.
 */
const PLOTLY = "plotly.js-style-global";
const MAPS = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53";

for (const id of [PLOTLY, MAPS]) {
  const marker = document.createElement("template");
  marker.id = id;
  marker.className = "no-inline-styles";
  document.head.append(marker);
}
