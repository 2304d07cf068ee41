"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const store = "palimpsest-people-" + facts.page;
const at = (id) => document.getElementById(id);
let session = recall() || { rater: hex(16), agreed: false, answers: [] };
const asked = questions(session.rater);
let shownAt = 0;

function hex(count) {
  return Array.from(crypto.getRandomValues(new Uint8Array(count)), (b) => b.toString(16).padStart(2, "0")).join("");
}

function recall() {
  try {
    return JSON.parse(localStorage.getItem(store));
  } catch {
    return null;
  }
}

function remember() {
  try {
    localStorage.setItem(store, JSON.stringify(session));
  } catch {
    at("warning").textContent = "This browser does not let the page remember: finish in one go.";
  }
}

// The same rater number gives the same order and the same sides, so that a page that is opened again goes on.
function dice(text) {
  let state = 2166136261;
  for (const letter of text) state = Math.imul(state ^ letter.charCodeAt(0), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function questions(rater) {
  const roll = dice(rater);
  const order = facts.trials.map((trial) => ({ trial, key: roll() })).sort((a, b) => a.key - b.key).slice(0, facts.each);
  return order.flatMap(({ trial }) => {
    const left = roll() < 0.5 ? 0 : 1;
    return Object.keys(trial.asked).map((question) => ({ trial, question, left }));
  });
}

function show(name) {
  for (const id of ["welcome", "trial", "end"]) at(id).hidden = id !== name;
  at(name).querySelector("h1").focus();
}

function picture(image, number) {
  image.src = facts.pictures[number];
  image.onload = () => image.classList.toggle("small", image.naturalWidth <= 128);
}

function next() {
  const done = session.answers.length;
  if (!session.agreed) return show("welcome");
  if (done === asked.length) {
    at("copy").value = answers();
    return show("end");
  }
  const { trial, question, left } = asked[done];
  at("trial").querySelector("progress").value = done / asked.length;
  at("place").textContent = `${done + 1} of ${asked.length}`;
  at("question").textContent = question === "same" ? trial.asked.same : "Which picture fits this text better?";
  at("text").hidden = question !== "text";
  at("text").textContent = question === "text" ? trial.asked.text : "";
  at("references").hidden = question !== "same";
  at("references").replaceChildren(
    ...trial.references.map((number, i) => {
      const image = new Image();
      image.alt = `Reference picture ${i + 1}`;
      picture(image, number);
      return image;
    }),
  );
  picture(at("left-picture"), trial.pictures[left]);
  picture(at("right-picture"), trial.pictures[1 - left]);
  at("back").disabled = done === 0;
  show("trial");
  shownAt = performance.now();
}

function choose(side) {
  if (at("trial").hidden) return;
  const { trial, question, left } = asked[session.answers.length];
  const seconds = Math.round((performance.now() - shownAt) / 100) / 10;
  const chosen = side === "left" ? left : 1 - left;
  session.answers.push({ comparison: trial.id, question, left, chosen, seconds });
  remember();
  next();
}

function back() {
  if (at("trial").hidden || !session.answers.length) return;
  session.answers.pop();
  remember();
  next();
}

function answers() {
  const { rater, answers } = session;
  return JSON.stringify({ kind: "palimpsest-answers", schema: 1, page: facts.page, rater, answers }, null, 1);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([answers()], { type: "application/json" }));
  link.download = `answers-${facts.study}-${session.rater.slice(0, 8)}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const span of document.querySelectorAll(".number")) span.textContent = facts.each;
for (const span of document.querySelectorAll(".minutes")) span.textContent = Math.ceil((asked.length * 5) / 60);
at("begin").onclick = () => {
  session.agreed = true;
  remember();
  next();
};
at("left").onclick = () => choose("left");
at("right").onclick = () => choose("right");
at("back").onclick = back;
at("save").onclick = save;
document.addEventListener("keydown", (event) => {
  const act = { ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), Backspace: back }[event.key];
  if (!act || event.repeat || event.ctrlKey || event.metaKey || event.altKey || at("trial").hidden) return;
  event.preventDefault();
  act();
});
next();
