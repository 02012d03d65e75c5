/** Loaded by every page: styles, and dates and numbers in the reader's locale. */
import "../../styles/tokens.css";
import "../../styles/base.css";
import "../../styles/components.css";
import "../../styles/forms.css";
import "../../styles/tables.css";

import { guardForms } from "../shared/forms";
import { localise } from "../shared/format";

localise(document);
guardForms(document);
