/** Not written yet: see README.md. */
import { html } from "../scripts/html.mjs";
import { Empty } from "../scripts/states.mjs";

export default function Screen() {
  return html`<${Empty} title="Nothing here yet">This screen is being built.<//>`;
}
