/** Whose fault a failure was, in words and colours. */

/** By the first word of a fault: how it is called, the tone of a chip, its colour in charts. @type {Record<string, [string, string, string]>} */
export const OWNERS = {
  caller: ["Callers", "", "var(--series-5)"],
  policy: ["Refused by policy", "warn", "var(--series-2)"],
  provider: ["Cohere", "bad", "var(--bad)"],
  gateway: ["This gateway", "bad", "var(--series-4)"],
};

/** Of a fault such as `provider_timeout`: whose it is, and what it was. @param {string} fault @returns {[string, string]} */
export function partsOf(fault) {
  const [owner, ...rest] = fault.split("_");
  return [owner, rest.join(" ")];
}
