/** Plotly under a strict Content-Security-Policy: import it from here only. */
import "../../styles/plotly.css";
import "./plotlyMarker";

import Plotly from "plotly.js-strict-dist-min";

export default Plotly;
