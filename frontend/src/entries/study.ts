import "../../styles/pages.css";
import "../../styles/landing.css";

import { start } from "../pages/study";

start();
