import "../../styles/pages.css";

import { makeSortable } from "../shared/sortable";

makeSortable(document);
