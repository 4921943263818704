// Every page there is: its title, its addresses below /ui, the operation without which it is not there for a role,
// and the letter after `g` that leads to it. A page's module is loaded when somebody goes there.

/**
 * @typedef {{name: string, title: string, paths: string[], needs: string, key: string, load: () => Promise<{default: any}>}} Page
 * @type {Page[]}
 */
export const PAGES = [
  { name: "overview", title: "Overview", paths: ["/"], needs: "service.status", key: "o", load: () => import("./overview.js") },
  { name: "runs", title: "Runs", paths: ["/runs", "/runs/{id}"], needs: "runs.list_runs", key: "r", load: () => import("./runs.js") },
];
