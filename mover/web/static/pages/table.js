// Every page there is: its title, its addresses below /ui, the operation without which it is not there for a role,
// and the letter after `g` that leads to it. A page's module is loaded when somebody goes there.

/**
 * @typedef {{name: string, title: string, paths: string[], needs: string, key: string, load: () => Promise<{default: any}>}} Page
 * @type {Page[]}
 */
export const PAGES = [
  { name: "overview", title: "Overview", paths: ["/"], needs: "service.status", key: "o", load: () => import("./overview.js") },
  { name: "batches", title: "Batches", paths: ["/batches", "/batches/{id}"], needs: "batches.list_batches", key: "b", load: () => import("./batches.js") },
  { name: "quarantine", title: "Quarantine", paths: ["/quarantine", "/quarantine/{cause}"], needs: "quarantine.causes", key: "q", load: () => import("./quarantine.js") },
  { name: "slides", title: "Slides", paths: ["/slides", "/slides/{number}"], needs: "rulings.list_rulings", key: "s", load: () => import("./slides.js") },
  { name: "tags", title: "Tags", paths: ["/tags"], needs: "tags.list_tags", key: "w", load: () => import("./tags.js") },
  { name: "records", title: "Records", paths: ["/records", "/records/{id}"], needs: "records.list_records", key: "e", load: () => import("./records.js") },
  { name: "cohorts", title: "Cohorts", paths: ["/cohorts", "/cohorts/{cohort}", "/selections/{id}"], needs: "cohorts.list_cohorts", key: "c", load: () => import("./cohorts.js") },
  { name: "runs", title: "Runs", paths: ["/runs", "/runs/{id}"], needs: "runs.list_runs", key: "r", load: () => import("./runs.js") },
  { name: "snapshots", title: "Snapshots", paths: ["/snapshots", "/snapshots/{id}", "/restores/{restore}"], needs: "snapshots.list_snapshots", key: "v", load: () => import("./snapshots.js") },
  { name: "policies", title: "Policies", paths: ["/policies", "/policies/{name}"], needs: "service.policies", key: "p", load: () => import("./policies.js") },
  { name: "tiers", title: "Tiers", paths: ["/tiers", "/tiers/{name}"], needs: "service.tiers", key: "t", load: () => import("./tiers.js") },
  { name: "jobs", title: "Nodes and jobs", paths: ["/jobs"], needs: "oversight.shards", key: "j", load: () => import("./jobs.js") },
  { name: "audit", title: "Audit", paths: ["/audit"], needs: "audit.page", key: "a", load: () => import("./audit.js") },
  { name: "alarms", title: "Alarms", paths: ["/alarms"], needs: "oversight.alarms", key: "l", load: () => import("./alarms.js") },
  { name: "people", title: "People", paths: ["/people"], needs: "accounts.list_accounts", key: "u", load: () => import("./people.js") },
  { name: "you", title: "You", paths: ["/you"], needs: "sessions.tokens", key: "y", load: () => import("./you.js") },
];
