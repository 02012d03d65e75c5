import "../../styles/pages.css";

import { start } from "../pages/study";

start();
