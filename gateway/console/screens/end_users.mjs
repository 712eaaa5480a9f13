/** End users: the people behind the programs that call, where they have limits of their own. */
import { html } from "../scripts/html.mjs";
import { RecordsScreen } from "./records.mjs";
import { limitsText } from "./keys.mjs";
import { Cost } from "../scripts/parts.mjs";
import { Link, href } from "../scripts/router.mjs";

export default function EndUsers() {
  return html`<${RecordsScreen} kind="end_user" by="end_user" title="End users" one="end user" path="end-users" icon="users"
    subtitle="A request names its end user in user or safety_identifier. One who is not recorded here has no limits."
    list="/customer/list" make="/customer/new" update="/customer/update" remove="/customer/delete" block="/customer/block" unblock="/customer/unblock"
    id=${(/** @type {any} */ row) => row.user_id} name=${(/** @type {any} */ row) => row.user_id}
    naming=${(/** @type {string} */ id) => ({ user_id: id })} removing=${(/** @type {string} */ id) => ({ user_ids: [id] })} blocking=${(/** @type {string} */ id) => ({ user_ids: [id] })}
    removal="Their limits and their block go with the record. Their calls stay in the ledger."
    links=${(/** @type {string} */ id) => html`<${Link} class="button" to=${href("calls", { end_user: id })}>Calls<//><${Link} class="button" to=${href("usage", { end_user: id, by: "end_user" })}>Usage<//>`}
    columns=${[
      { title: "Name", hide: true, cell: (/** @type {any} */ row) => row.alias },
      { title: "Spent", number: true, cell: (/** @type {any} */ row) => html`<${Cost} dollars=${row.total_spend} />` },
    ]}
    after=${[{ title: "Limits a minute", hide: true, cell: limitsText }]} />`;
}
