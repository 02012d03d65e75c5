import "../../styles/pages.css";

import { start } from "../pages/train";

start();
