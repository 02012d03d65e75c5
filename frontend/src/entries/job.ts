import "../../styles/pages.css";

import { start } from "../pages/job";

start();
