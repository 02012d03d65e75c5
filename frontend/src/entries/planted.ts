import "../../styles/pages.css";
import "../../styles/planted.css";

import { start } from "../planted/page";

start();
