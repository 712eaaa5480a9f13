/** Teams, which bound the keys in them. */
import { html } from "../scripts/html.mjs";
import { RecordsScreen } from "./records.mjs";
import { limitsText } from "./keys.mjs";
import { permissionSentence, permissionWord } from "../scripts/permissions.mjs";
import { Chip, Cost } from "../scripts/parts.mjs";
import { Link, href } from "../scripts/router.mjs";

export default function Teams() {
  return html`<${RecordsScreen} kind="team" by="team" title="Teams" one="team" path="teams" icon="teams"
    subtitle="A key can do no more than its team. What a key does not set is the team's."
    list="/team/list" make="/team/new" update="/team/update" remove="/team/delete" block="/team/block" unblock="/team/unblock"
    id=${(/** @type {any} */ row) => row.team_id} name=${(/** @type {any} */ row) => row.team_alias || row.team_id}
    naming=${(/** @type {string} */ id) => ({ team_id: id })} removing=${(/** @type {string} */ id) => ({ team_ids: [id] })}
    removal="The keys of the team are refused from then on, and its id is not given again. Its calls stay in the ledger."
    links=${(/** @type {string} */ id) => html`<${Link} class="button" to=${href("keys", { team: id })}>Keys<//><${Link} class="button" to=${href("calls", { team: id })}>Calls<//><${Link} class="button" to=${href("usage", { team: id })}>Usage<//>`}
    sentence=${(/** @type {any} */ catalog, /** @type {any} */ row) => permissionSentence(catalog, { ...row, team_id: null })}
    columns=${[
      { title: "Permissions", tiny: true, cell: (/** @type {any} */ row) => html`<${Chip}>${permissionWord(row.permissions)}<//>` },
      { title: "Models", hide: true, cell: (/** @type {any} */ row) => html`<span class="truncate models">${row.models.length ? row.models.join(", ") : "all"}</span>` },
      { title: "Spent", number: true, cell: (/** @type {any} */ row) => html`<${Cost} dollars=${row.total_spend} />` },
    ]}
    after=${[{ title: "Limits a minute", hide: true, cell: limitsText }]} />`;
}
