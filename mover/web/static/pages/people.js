// People: accounts with their roles in this project, and the tokens that act for people and machines.
import { html, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count } from "../lib/format.js";
import { goQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Action, Badge, Copy, Dialog, Empty, Equivalent, Head, Id, Panel, Table, Tabs, Time } from "../parts/all.js";

const ROLES = [["viewer", "viewer: looks"], ["operator", "operator: does the daily work"], ["admin", "admin: runs the machine, sees no names"], ["custodian", "custodian: sees names, with a purpose"]];
const ROLE = { name: "role", label: "Role in this project", kind: "choice", choices: ROLES, value: "viewer", required: true };
const POSIX = [
  { name: "posix_uid", label: "User id of the machine", kind: "number", least: 1, hint: "Paths that this one names are opened as this user." },
  { name: "posix_gid", label: "Group id of the machine", kind: "number", least: 1 },
];
const UNTIL = { name: "expires_at", label: "Ends", kind: "moment", hint: "Nothing: until it is ended." };

export default function People({ query }) {
  const tab = query.get("tab") ?? "";
  const [secret, setSecret] = useState(null);
  const [turn, setTurn] = useState(0);
  const done = (told) => {
    setTurn((one) => one + 1);
    if (told?.secret) setSecret(told);
  };
  const tabs = [["", "Accounts"], may("tokens.list_tokens") && ["tokens", "Tokens"]].filter(Boolean);
  return html`<${Head} title="People" below="Who may do what in this project. Rights are judged at every request.">
      ${tab === "tokens" ? html`<${Action} operation="tokens.make" label="Make a token" first done=${done} told="The token is made" body=${{}}
        fields=${[{ name: "actor", label: "For", kind: "text", required: true, hint: "Whose name stands in the audit." }, { ...ROLE, choices: [...ROLES, ["scheduler", "scheduler: asks for runs for others"]] }, { ...UNTIL }, { name: "scopes", label: "Only these actions", kind: "lines", hint: "Such as runs.read; nothing: all that the role may." }, ...POSIX]}
        consequence="The secret is shown once, in the answer. Whoever has it acts in this name." />`
      : html`<${Action} operation="accounts.make" label="Add an account" first done=${done} told="The account is made" body=${{}}
        fields=${[{ name: "name", label: "Name", kind: "text", required: true }, ROLE, UNTIL, ...POSIX]} consequence="A first password is made up and shown once, in the answer." />`}<//>
    <${Tabs} of=${tabs} chosen=${tab} choose=${(one) => goQuery({ tab: one })} label="Accounts or tokens" />
    ${tab === "tokens" ? html`<${Tokens} turn=${turn} done=${done} />` : html`<${Accounts} turn=${turn} done=${done} />`}
    ${secret && html`<${Secret} of=${secret} close=${() => setSecret(null)} />`}`;
}

/** Shown once: it is nowhere but in this answer, and gone with this dialog. */
function Secret({ of, close }) {
  return html`<${Dialog} title=${of.actor ? `Token for ${of.actor}` : `Password of ${of.name}`} close=${close}>
    <p>It is shown now and never again. Hand it over by a way that only this person reads.</p><${Copy} text=${of.secret} block /><div class="row last"><button class="first" onClick=${close}>I have it</button></div><//>`;
}

// --- accounts ---------------------------------------------------------------------------------------------

const standing = (a) => (a.disabled_at ? ["disabled", "bad"] : a.role === null ? ["no role here", "wait"] : a.expires_at && new Date(a.expires_at) < new Date() ? ["ended", "wait"] : ["live", "good"]);

function Accounts({ turn, done }) {
  const [open, setOpen] = useState(null);
  const load = async () => ({ rows: (await call("accounts.list_accounts")).accounts, next: null });
  const columns = [
    { name: "name", label: "Name", width: "minmax(80px, 2fr)", text: (a) => a.name, cell: (a) => html`<button class="link" onClick=${() => setOpen(a.name)}>${a.name}</button>` },
    { name: "role", label: "Role", width: "80px", text: (a) => a.role ?? "", cell: (a) => a.role ?? html`<span class="muted">none</span>` },
    { name: "state", label: "State", width: "96px", text: (a) => standing(a)[0], cell: (a) => html`<${Badge} state=${standing(a)[0]} tone=${standing(a)[1]} />` },
    { name: "by", label: "Signs in by", width: "minmax(96px, 1fr)", wide: true, cell: (a) => [a.password && "password", a.provider && "provider"].filter(Boolean).join(", ") },
    { name: "sessions", label: "Sessions", width: "76px", right: true, wide: true, text: (a) => a.sessions, cell: (a) => count(a.sessions) },
    { name: "seen", label: "Seen", width: "112px", wide: true, text: (a) => a.last_seen_at ?? "", cell: (a) => html`<${Time} at=${a.last_seen_at} />` },
    { name: "ends", label: "Ends", width: "112px", wide: true, text: (a) => a.expires_at ?? "", cell: (a) => html`<${Time} at=${a.expires_at} />` },
  ];
  return html`<${Panel}><${Table} name="accounts" label="Accounts" columns=${columns} load=${load} id=${(a) => a.name} deps=${[turn]} rows=${14} empty=${html`<${Empty} title="No accounts yet">Until there are, people sign in by token. Add the first one here.<//>`} /><//>
    <${Equivalent} operation="accounts.list_accounts" />${open && html`<${OneAccount} name=${open} done=${done} load=${load} close=${() => setOpen(null)} />`}`;
}

/** What may be done with an account; each deed is an action of its own, with its command. */
function OneAccount({ name, done, close }) {
  const said = { name };
  const after = (told) => {
    close();
    done(told);
  };
  const deeds = [
    ["accounts.grant", "Change the role", { fields: [ROLE], body: {}, consequence: "In place of the role it has. Live sessions have the new one at their next request." }],
    ["accounts.password", "New password", { body: {}, consequence: "A password is made up and shown once. Its sessions end." }],
    ["accounts.end_sessions", "Sign out everywhere", { consequence: "Every session ends; it may sign in again." }],
    ["accounts.revoke", "Take the role away", { danger: true, consequence: "It sees nothing of this project any more; its tokens neither." }],
    ["accounts.disable", "Disable", { danger: true, consequence: "Signed out everywhere, and in nowhere. Its tokens open nothing." }],
    ["accounts.enable", "Enable", { consequence: "It may sign in again." }],
  ];
  return html`<${Dialog} title=${name} close=${close}><div class="stack">${deeds.map(([operation, label, more]) => html`<div class="row apart" key=${operation}><span class="muted grow">${more.consequence}</span><${Action} operation=${operation} label=${label} title=${`${label}: ${name}`} said=${said} done=${after} told=${`${label}: done`} ...${more} /></div>`)}</div><//>`;
}

// --- tokens -----------------------------------------------------------------------------------------------

const live = (t) => (t.revoked_at ? ["revoked", "wait"] : t.expires_at && new Date(t.expires_at) < new Date() ? ["ended", "wait"] : ["live", "good"]);

function Tokens({ turn, done }) {
  const load = async () => ({ rows: (await call("tokens.list_tokens")).tokens, next: null });
  const columns = [
    { name: "actor", label: "For", width: "minmax(72px, 2fr)", text: (t) => t.actor, cell: (t) => html`<strong>${t.actor}</strong>` },
    { name: "role", label: "Role", width: "72px", wide: true, text: (t) => t.role, cell: (t) => t.role },
    { name: "state", label: "State", width: "72px", text: (t) => live(t)[0], cell: (t) => html`<${Badge} state=${live(t)[0]} tone=${live(t)[1]} />` },
    { name: "id", label: "Token", width: "minmax(112px, 1fr)", wide: true, text: (t) => t.id, cell: (t) => html`<${Id} of=${t.id} />` },
    { name: "scopes", label: "Only for", width: "minmax(96px, 2fr)", wide: true, text: (t) => (t.scopes ?? []).join(" "), cell: (t) => (t.scopes ? html`<span class="mono" title=${t.scopes.join(", ")}>${t.scopes.join(", ")}</span>` : html`<span class="muted">all of the role</span>`) },
    { name: "used", label: "Used", width: "112px", wide: true, text: (t) => t.last_used_at ?? "", cell: (t) => html`<${Time} at=${t.last_used_at} />` },
    { name: "ends", label: "Ends", width: "112px", wide: true, text: (t) => t.expires_at ?? "", cell: (t) => html`<${Time} at=${t.expires_at} />` },
    { name: "deed", label: "", width: "84px", cell: (t) => live(t)[0] === "live" && html`<${Action} operation="tokens.revoke" label="Revoke" title=${`Revoke the token of ${t.actor}`} said=${{ id: t.id }} danger consequence="It opens nothing any more, at once and for good." told="The token is revoked" done=${done} />` },
  ];
  return html`<${Panel}><${Table} name="tokens" label="Tokens" columns=${columns} load=${load} id=${(t) => t.id} deps=${[turn]} rows=${14} empty=${html`<${Empty} title="No tokens" />`} /><//><${Equivalent} operation="tokens.list_tokens" />`;
}
