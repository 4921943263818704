// You: who the daemon takes you for, your own password and your own tokens.
import { html, useState } from "../lib/preact.js";
import { call, Problem } from "../lib/api.js";
import { useAsk } from "../lib/live.js";
import { toast } from "../lib/toasts.js";
import { Action, Asked, Badge, Copy, Dialog, Empty, Facts, Failure, Head, Id, Panel, Table, Time } from "../parts/all.js";

const LEAST = 12;
const OWN = [
  { name: "label", label: "For", kind: "text", required: true, hint: "Such as laptop: it stands in the audit beside your name." },
  { name: "expires_at", label: "Ends", kind: "moment", required: true, hint: "Within 400 days; with your role or your account before that." },
  { name: "scopes", label: "Only these actions", kind: "lines", hint: "Such as runs.read; nothing: all that you may." },
];

export default function You() {
  const asked = useAsk("sessions.view", {}, { every: 0 });
  const [secret, setSecret] = useState(null);
  const [turn, setTurn] = useState(0);
  const done = (told) => {
    setTurn((one) => one + 1);
    if (told?.secret) setSecret(told.secret);
  };
  return html`<${Head} title="You" below="Who you are here, and what is yours alone." />
    <${Asked} asked=${asked}>${(who) => html`<${Panel} title="Signed in"><${Facts} of=${[["Name", who.actor], ["Role", who.role], ["Project", who.project]]} /><//>
      ${who.kind === "password" && html`<${Password} />`}
      ${who.kind === "password" || who.kind === "provider" ? html`<${Tokens} turn=${turn} done=${done} />` : html`<${Panel}><${Empty} title="Nothing is yours alone">You came in by a token; who signs in by an account has a password and own tokens here.<//><//>`}`}<//>
    ${secret && html`<${Dialog} title="Your new token" close=${() => setSecret(null)}><p>It is shown now and never again. Whoever has it acts in your name.</p><${Copy} text=${secret} block /><div class="row last"><button class="first" onClick=${() => setSecret(null)}>I have it</button></div><//>`}`;
}

/** No command and no request stand beside it: they would show what was typed. */
function Password() {
  const [typed, setTyped] = useState({ old: "", new: "", again: "" });
  const [problem, setProblem] = useState(null);
  const differs = typed.again && typed.new !== typed.again;
  const ready = typed.old && typed.new.length >= LEAST && typed.new === typed.again;
  const send = async (event) => {
    event.preventDefault();
    if (!ready) return;
    try {
      const told = await call("sessions.repass", {}, { body: { old: typed.old, new: typed.new } });
      setTyped({ old: "", new: "", again: "" });
      setProblem(null);
      toast(`Changed. Ended: ${told.ended} other sessions`);
    } catch (found) {
      if (!(found instanceof Problem)) throw found;
      setProblem(found);
    }
  };
  const field = (name, label, kind) => html`<div class="field"><label for=${`pass-${name}`}>${label}</label><input id=${`pass-${name}`} type="password" autocomplete=${kind} value=${typed[name]} onInput=${(event) => setTyped({ ...typed, [name]: event.currentTarget.value })} /></div>`;
  return html`<${Panel} title="Password"><form class="stack" onSubmit=${send}>${field("old", "The one before", "current-password")}${field("new", `A new one, of ${LEAST} letters or more`, "new-password")}${field("again", "The new one again", "new-password")}
    ${differs && html`<p class="muted" role="status">The two are not the same yet.</p>`}${problem && html`<${Failure} problem=${problem} />`}
    <div class="row"><button class="first" disabled=${!ready}>Change the password</button><span class="muted">Your other sessions end.</span></div></form><//>`;
}

function Tokens({ turn, done }) {
  const load = async () => ({ rows: (await call("sessions.tokens")).tokens, next: null });
  const live = (t) => !t.revoked_at && !(t.expires_at && new Date(t.expires_at) < new Date());
  const columns = [
    { name: "actor", label: "For", width: "minmax(96px, 2fr)", text: (t) => t.actor, cell: (t) => t.actor },
    { name: "state", label: "State", width: "84px", cell: (t) => html`<${Badge} state=${live(t) ? "live" : "ended"} />` },
    { name: "id", label: "Token", width: "minmax(112px, 1fr)", wide: true, cell: (t) => html`<${Id} of=${t.id} />` },
    { name: "used", label: "Used", width: "112px", wide: true, cell: (t) => html`<${Time} at=${t.last_used_at} />` },
    { name: "ends", label: "Ends", width: "112px", cell: (t) => html`<${Time} at=${t.expires_at} />` },
    { name: "deed", label: "", width: "84px", cell: (t) => live(t) && html`<${Action} operation="sessions.revoke_token" label="Revoke" title=${`Revoke ${t.actor}`} said=${{ id: t.id }} danger consequence="It opens nothing any more, at once and for good." told="The token is revoked" done=${done} />` },
  ];
  const make = html`<${Action} operation="sessions.make_token" label="Make a token" fields=${OWN} body=${{}} done=${done} told="The token is made" consequence="It may what you may. The secret is shown once, in the answer." />`;
  return html`<${Panel} title="Your tokens" aside=${make}><${Table} name="own-tokens" label="Your tokens" columns=${columns} load=${load} id=${(t) => t.id} deps=${[turn]} rows=${6} empty=${html`<${Empty} title="None yet">For a script of your own; it ends with your account.<//>`} /><//>`;
}
