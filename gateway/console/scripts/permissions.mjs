/**
 * What a key may do, in words and as choices. The table of methods, groups and presets is the gateway's own
 * (`GET /gateway/permissions`); nothing is decided here.
 */

/**
 * @typedef {{name: string, readable: boolean, methods: {name: string, reads: boolean}[]}} Group
 * @typedef {{levels: string[], groups: Group[], presets: Record<string, Record<string, string>>, default: string}} Catalog
 * @typedef {null | string | Record<string, string>} Permissions as the management API has them
 */

/** What a group is for, after "may". @type {Record<string, [string, string]>} full, read */
const DEEDS = {
  chat: ["chat", "chat"],
  embed: ["embed", "embed"],
  rerank: ["rerank", "rerank"],
  classify: ["classify", "classify"],
  parse: ["parse documents", "parse documents"],
  tokens: ["count tokens", "count tokens"],
  transcription: ["transcribe", "transcribe"],
  models: ["change models", "list models"],
  datasets: ["change datasets", "read datasets"],
  embed_jobs: ["run embed jobs", "read embed jobs"],
  batches: ["run batches", "read batches"],
  finetuning: ["fine-tune models", "read fine-tuned models"],
  connectors: ["change connectors", "read connectors"],
  account: ["change the account", "read the account"],
};

/** The level of each group and method that permissions name, or that their preset has. @param {Catalog} catalog @param {Permissions} permissions @returns {Record<string, string>} */
export function levelsOf(catalog, permissions) {
  const base = catalog.presets[typeof permissions === "string" ? permissions : catalog.default] ?? {};
  return permissions !== null && typeof permissions === "object" ? { ...base, ...permissions } : { ...base };
}

/** The level of a group. @param {Catalog} catalog @param {Permissions} permissions @param {Group} group */
export function groupLevel(catalog, permissions, group) {
  return levelsOf(catalog, permissions)[group.name] ?? "off";
}

/** Methods that have another level than their group. @param {Catalog} catalog @param {Permissions} permissions @returns {[string, string][]} */
export function exceptions(catalog, permissions) {
  const groups = new Set(catalog.groups.map((group) => group.name));
  if (permissions === null || typeof permissions !== "object") return [];
  return Object.entries(permissions).filter(([name]) => !groups.has(name));
}

/** "a, b and c". @param {string[]} words @param {string} [last] */
export function listed(words, last = "and") {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${last} ${words[words.length - 1]}`;
}

/**
 * The sentence that says what a key may do.
 * @param {Catalog} catalog
 * @param {{permissions: Permissions, models?: string[], team_id?: string | null, role?: string, blocked?: boolean}} record
 */
export function permissionSentence(catalog, record) {
  if (record.blocked) return "Is blocked: every request is refused.";
  const { permissions } = record;
  const deeds = catalog.groups.flatMap((group) => {
    const level = groupLevel(catalog, permissions, group);
    const [full, read] = DEEDS[group.name] ?? [`use ${group.name}`, `read ${group.name}`];
    return level === "off" ? [] : [level === "full" ? full : read];
  });
  const models = (record.models ?? []).filter((name) => name !== "*");
  const roles = { admin: " It manages keys, teams and end users.", viewer: " It reads calls, usage and keys." };
  const extra = roles[/** @type {"admin"} */ (record.role ?? "")] ?? "";
  const inherited = permissions === null && record.team_id ? " As its team has it: what the team may not do, the key may not." : "";
  if (permissions === "all") return `May do everything, on paths too that the gateway does not know${withModels(models)}.${extra}`;
  const except = exceptions(catalog, permissions).map(([name, level]) => `${name} is ${level}`);
  const ending = except.length ? `; ${listed(except)}` : "";
  if (permissions === null && record.role === "viewer") return `May call nothing.${extra}`;
  return (deeds.length ? `May ${listed(deeds)}${withModels(models)}${ending}.` : `May call nothing${ending}.`) + extra + inherited;
}

/** @param {string[]} models */
function withModels(models) {
  if (!models.length) return "";
  return `, with ${models.length > 4 ? `${models.length} models` : listed(models, "or")} only`;
}

/** The name of a team, where it is known. @param {any[] | undefined} teams @param {string} id */
export function teamName(teams, id) {
  return teams?.find((team) => team.team_id === id)?.team_alias || id;
}

/** A word or two for a table. @param {Permissions} permissions @param {string | null} [team] @param {string} [role] */
export function permissionWord(permissions, team, role) {
  if (permissions === null && role === "viewer") return "no calls";
  if (permissions === null) return team ? "as its team" : "default";
  return typeof permissions === "string" ? permissions : "custom";
}
