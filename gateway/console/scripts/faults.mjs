/** Whose fault a failure was, in words and colours. */

/** By the first word of a fault: how it is called, the tone of a chip, its name and colour in charts. @type {Record<string, [string, string, string, string]>} */
export const OWNERS = {
  caller: ["Callers", "", "callers' fault", "var(--series-6)"],
  policy: ["Refused by policy", "warn", "refused by policy", "var(--series-5)"],
  provider: ["Cohere", "bad", "Cohere's fault", "var(--bad)"],
  gateway: ["This gateway", "bad", "this gateway's fault", "var(--series-4)"],
};

/** Of a fault such as `provider_timeout`: whose it is, and what it was. @param {string} fault @returns {[string, string]} */
export function partsOf(fault) {
  const [owner, ...rest] = fault.split("_");
  return [owner, rest.join(" ")];
}
