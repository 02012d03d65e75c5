import "../../styles/pages.css";

import { start } from "../pages/jobs";

start();
