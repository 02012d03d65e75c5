import "../../styles/pages.css";

import { start } from "../pages/model";

start();
