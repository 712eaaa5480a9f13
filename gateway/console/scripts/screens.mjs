/**
 * THE TABLE OF SCREENS: where each is, who sees it, and the module that shows it, which is loaded when it is first
 * opened. A module exports `default`, a component. README.md says how a screen is added.
 */
import { isHolder, mayRead, seesAll } from "./session.mjs";

/**
 * path: the first word of the address below /console. visible: whether whoever has signed in is shown it.
 * @typedef {{path: string, title: string, icon: string, group: string, visible: () => boolean, load: () => Promise<{default: any}>}} Screen
 */

const always = () => true;

/** @type {Screen[]} */
export const SCREENS = [
  { path: "", title: "Overview", icon: "overview", group: "", visible: () => seesAll.value, load: () => import("../screens/overview.mjs") },
  { path: "my-key", title: "My key", icon: "key", group: "", visible: () => isHolder.value, load: () => import("../screens/my_key.mjs") },
  { path: "start", title: "Get started", icon: "start", group: "", visible: always, load: () => import("../screens/start.mjs") },
  { path: "calls", title: "Calls", icon: "calls", group: "Observe", visible: () => seesAll.value || isHolder.value, load: () => import("../screens/calls.mjs") },
  { path: "usage", title: "Usage", icon: "usage", group: "Observe", visible: () => seesAll.value || isHolder.value, load: () => import("../screens/usage.mjs") },
  { path: "audit", title: "Audit", icon: "audit", group: "Observe", visible: () => seesAll.value, load: () => import("../screens/audit.mjs") },
  { path: "keys", title: "Keys", icon: "key", group: "Manage", visible: () => mayRead.value, load: () => import("../screens/keys.mjs") },
  { path: "teams", title: "Teams", icon: "teams", group: "Manage", visible: () => mayRead.value, load: () => import("../screens/teams.mjs") },
  { path: "end-users", title: "End users", icon: "users", group: "Manage", visible: () => mayRead.value, load: () => import("../screens/end_users.mjs") },
  { path: "playground", title: "Playground", icon: "play", group: "Build", visible: always, load: () => import("../screens/playground.mjs") },
  { path: "models", title: "Models", icon: "models", group: "Build", visible: always, load: () => import("../screens/models.mjs") },
  { path: "settings", title: "Settings", icon: "settings", group: "Build", visible: () => seesAll.value, load: () => import("../screens/settings.mjs") },
];

/** The screens that whoever has signed in is shown. */
export const visibleScreens = () => SCREENS.filter((screen) => screen.visible());

/** The title of a screen that there is, and that whoever has signed in may not see; else "". @param {string} name */
export const hiddenTitle = (name) => SCREENS.find((screen) => screen.path === name && !screen.visible())?.title ?? "";

/** The screen of an address; of a hidden or unknown one the first that is visible, or nothing. @param {string} name */
export function screenOf(name) {
  const screens = visibleScreens();
  return screens.find((screen) => screen.path === name) ?? (name === "" ? screens[0] : undefined);
}
