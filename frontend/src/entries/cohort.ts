import "../../styles/pages.css";

import { start } from "../pages/cohort";

start();
