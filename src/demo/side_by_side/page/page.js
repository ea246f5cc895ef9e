"use strict";

const PERIOD = 500;
// While nobody answers.
const PAUSE = 5000;
// For so long a refusal stands where else the state does.
const REFUSAL = 10000;
const SAMPLES = 240;
const LINES = 200;
const SIDES = ["embedded", "injected"];
const TOKEN = document.querySelector("meta[name=demo-token]").content;
const element = (id) => document.getElementById(id);
const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`);

let next = 0;
let snapshot = null;
let refusedUntil = 0;
const rates = { embedded: [], injected: [] };

for (const section of document.querySelectorAll("[data-side]")) {
  section.append(element("side").content.cloneNode(true));
  for (const region of section.querySelectorAll(".scroll")) {
    region.setAttribute("aria-label", `${section.dataset.side}: ${region.querySelector("caption").textContent}`);
  }
}

async function act(name) {
  try {
    const answer = await fetch(`/action/${name}`, { method: "POST", headers: { "x-demo-token": TOKEN } });
    if (!answer.ok) {
      const why = await answer.text();
      refusedUntil = performance.now() + REFUSAL;
      say(`refused: ${why}`, true);
    }
  } catch {
    gone();
  }
}

for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", () => act(button.dataset.action));
}
for (const button of document.querySelectorAll("[data-toggle]")) {
  button.addEventListener("click", () => {
    const away = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!away));
    act(`${button.dataset.toggle}-${away ? "back" : "away"}`);
  });
}

// Only what has changed is written, so that a screen reader is not disturbed.
function put(node, text, tone) {
  if (node.textContent !== text) node.textContent = text;
  if (tone !== undefined && node.className !== tone) node.className = tone;
}

function say(text, problem) {
  put(element("state"), text, problem ? "problem" : "");
}

function gone() {
  say("the demo has ended, or does not answer", true);
}

function rows(table, lines) {
  const body = table.tBodies[0];
  const wanted = JSON.stringify(lines);
  if (body.dataset.shown === wanted) return;
  body.dataset.shown = wanted;
  body.replaceChildren(
    ...lines.map((cells) => {
      const row = document.createElement("tr");
      cells.forEach((text, index) => {
        const cell = document.createElement(index === 0 ? "th" : "td");
        if (index === 0) cell.scope = "row";
        if (typeof text === "string") cell.textContent = text;
        else cell.append(text.text, more(text));
        row.append(cell);
      });
      return row;
    }),
  );
}

function more({ summary, lines }) {
  const details = document.createElement("details");
  details.append(document.createElement("summary"));
  details.firstChild.textContent = summary;
  for (const line of lines) {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    details.append(paragraph);
  }
  return details;
}

function task(side) {
  const { last_status, starts, simulated_seconds_left, stopped_reason } = side.task;
  let text = last_status;
  if (simulated_seconds_left !== null) text += `, ready in ${Math.ceil(simulated_seconds_left)} s (simulated)`;
  text += `; ${starts} started`;
  if (stopped_reason !== null) text += `. The one before: ${stopped_reason}`;
  return text;
}

function keys(side) {
  const used = side.keys_in_use === null ? "none yet" : `number ${side.keys_in_use}`;
  if (side.keys_newest > side.keys_labelled) {
    return `${used}; the secrets are torn between ${side.keys_labelled} and ${side.keys_newest}`;
  }
  const accepted = side.old_keys_accepted ? "; the feed still accepts older ones" : "";
  return `${used} of ${side.keys_newest}${accepted}`;
}

function show(name, side) {
  const section = document.querySelector(`[data-side=${name}]`);
  const field = (id) => section.querySelector(`[data-field=${id}]`);
  put(field("task"), task(side), side.task.last_status === "RUNNING" ? "good" : "bad");
  const refused = side.refused > 0 ? `; refused ${side.refused} times` : "";
  put(field("stream"), (side.streaming ? "open" : "none") + refused, side.streaming ? "good" : "bad");
  put(field("keys"), keys(side));
  const simulated = side.simulated_seconds_on_old > 0 ? `, ${seconds(side.simulated_seconds_on_old)} of it simulated` : "";
  const old = `${side.stale ? "now, " : ""}${seconds(side.seconds_on_old)} in all${simulated}`;
  put(field("old"), old, side.stale ? "bad" : "good");
  put(field("rows"), String(side.rows_written));
  const meanwhile = side.simulated_rows_missed > 0 ? `, ${side.simulated_rows_missed} of them in a simulated start` : "";
  put(field("missed"), side.rows_missed + meanwhile, side.rows_missed > 0 ? "bad" : "good");
  put(field("spool"), String(side.rows_in_spool));
  const short = (id) => (id === null ? "?" : id.slice(0, 8));
  rows(
    section.querySelector("[data-table=versions]"),
    side.versions.map(({ secret, current, fetched }) => [secret, short(current), short(fetched)]),
  );
  const role = (text) => text.replace(/^twitterstream-/, "");
  rows(
    section.querySelector("[data-table=calls]"),
    side.calls.map((call) => [role(call.role), call.event_name, String(call.ok), String(call.failed)]),
  );
}

function chart(before) {
  if (before === null) return;
  const passed = snapshot.seconds - before.seconds;
  if (passed <= 0) return;
  for (const name of SIDES) {
    const samples = rates[name];
    samples.push((snapshot[name].rows_written - before[name].rows_written) / passed);
    if (samples.length > SAMPLES) samples.shift();
  }
  // A backlog that is written at once would hide the rest.
  const most = Math.max(1, Math.min((snapshot.rate * 4) / 3, Math.max(...SIDES.flatMap((name) => rates[name]))));
  for (const name of SIDES) {
    const points = rates[name].map((rate, index) => {
      const x = 600 - (rates[name].length - 1 - index) * (600 / (SAMPLES - 1));
      return `${x.toFixed(1)},${(118 - 100 * Math.min(1, rate / most)).toFixed(1)}`;
    });
    document.querySelector(`#chart .${name}`).setAttribute("points", points.join(" "));
  }
  put(element("most"), `${most.toFixed(0)} rows/s`);
}

function tell(events) {
  const list = element("timeline");
  for (const { number, seconds: at, side, tone, text } of events) {
    next = number + 1;
    const line = document.createElement("li");
    line.className = tone;
    const when = document.createElement("span");
    when.className = "when";
    when.textContent = `${at.toFixed(1)} s `;
    const where = document.createElement("b");
    where.className = side ?? "both";
    where.textContent = `${side ?? "both"} `;
    line.append(when, where, text);
    list.prepend(line);
  }
  while (list.children.length > LINES) list.lastElementChild.remove();
}

function attacks({ running, probes, findings, error }) {
  const found = `${findings.length} of ${probes}`;
  let text = "not made yet";
  if (running) text = `under way: ${found}`;
  else if (error !== null) text = `broke off: ${error}`;
  else if (findings.length > 0) text = `made: ${found}`;
  put(element("attacked"), text);
  document.querySelector("[data-action=attack]").disabled = running;
  const verdicts = { embedded: "embedded better", injected: "injection better", equal: "equal" };
  rows(
    element("findings"),
    findings.map(({ claim, on_fargate, command, embedded, injected, verdict, skipped }) => [
      { text: claim, summary: "On Fargate", lines: [on_fargate, `To repeat it there: ${command}`] },
      embedded,
      injected,
      verdict === null ? `skipped: ${skipped}` : verdicts[verdict],
    ]),
  );
}

async function look() {
  let wait = PERIOD;
  try {
    const answer = await fetch(`/snapshot?from=${next}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const before = snapshot;
    snapshot = await answer.json();
    const { seconds: started, simulated_start_seconds: start, published_start: published } = snapshot;
    if (performance.now() >= refusedUntil) {
      say(`running for ${Math.floor(started / 10) * 10} s, ${snapshot.rate} posts a second on each side`);
    }
    put(element("simulated"), seconds(start));
    put(element("published"), `${published.seconds} s, ${published.of}, ${published.source}`);
    for (const name of SIDES) show(name, snapshot[name]);
    for (const [toggle, reach] of [["secrets", snapshot.secrets_manager], ["table", snapshot.dynamodb]]) {
      const button = document.querySelector(`[data-toggle=${toggle}]`);
      const pressed = String(reach === "away");
      if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
    }
    chart(before);
    tell(snapshot.timeline);
    attacks(snapshot.attacks);
  } catch {
    wait = PAUSE;
    gone();
  }
  setTimeout(look, wait);
}

look();
