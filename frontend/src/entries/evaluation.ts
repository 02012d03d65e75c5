import "../../styles/evaluation.css";
import "../../styles/pages.css";

import { start } from "../evaluation/page";

start();
