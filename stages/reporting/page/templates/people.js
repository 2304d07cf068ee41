"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const storageKey = "palimpsest-people-" + facts.page;
const byId = (id) => document.getElementById(id);
let session = restore() || { rater: hex(16), agreed: false, answers: [] };
const questions = drawQuestions(session.rater);
let shownAt = 0, waiting = 0;

function hex(count) {
  return Array.from(crypto.getRandomValues(new Uint8Array(count)), (b) => b.toString(16).padStart(2, "0")).join("");
}

function restore() {
  try {
    return JSON.parse(localStorage.getItem(storageKey));
  } catch {
    return null;
  }
}

function store() {
  try {
    localStorage.setItem(storageKey, JSON.stringify(session));
  } catch {
    byId("warning").textContent = "This browser does not allow the page to store your answers: please finish without closing it.";
  }
}

// The same rater number gives the same order and sides, so that a page that is opened again continues.
function randomNumbers(text) {
  let state = 2166136261;
  for (const letter of text) state = Math.imul(state ^ letter.charCodeAt(0), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(things, random) {
  return things.map((thing) => ({ thing, key: random() })).sort((a, b) => a.key - b.key).map(({ thing }) => thing);
}

// All trials with a known answer, on the left in half of them, among this rater's comparisons.
function drawQuestions(rater) {
  const random = randomNumbers(rater);
  const known = shuffled(facts.trials.filter((trial) => trial.known), random).map((trial, k) => ({ trial, left: k % 2 }));
  const compared = shuffled(facts.trials.filter((trial) => !trial.known), random).slice(0, facts.each);
  const sides = compared.map((trial) => ({ trial, left: random() < 0.5 ? 0 : 1 }));
  return shuffled([...known, ...sides], random).flatMap(({ trial, left }) =>
    Object.keys(trial.asked).map((question) => ({ trial, question, left })));
}

function show(name) {
  for (const id of ["welcome", "trial", "end"]) byId(id).hidden = id !== name;
  byId(name).querySelector("h1").focus();
}

function picture(image, number) {
  image.src = facts.pictures[number];
  image.onload = () => image.classList.toggle("small", image.naturalWidth <= 128);
}

function next() {
  const done = session.answers.length;
  if (!session.agreed) return show("welcome");
  if (done === questions.length) {
    byId("copy").value = answers();
    return show("end");
  }
  const { trial, question, left } = questions[done];
  byId("trial").querySelector("progress").value = done / questions.length;
  byId("place").textContent = `${done + 1} of ${questions.length}`;
  byId("question").textContent = question === "same" ? trial.asked.same : "Which picture fits this text better?";
  byId("text").hidden = question !== "text";
  byId("text").textContent = question === "text" ? trial.asked.text : "";
  byId("references").hidden = question !== "same";
  byId("references").replaceChildren(
    ...trial.references.map((number, i) => {
      const image = new Image();
      image.alt = `Reference picture ${i + 1}`;
      picture(image, number);
      return image;
    }),
  );
  picture(byId("left-picture"), trial.pictures[left]);
  picture(byId("right-picture"), trial.pictures[1 - left]);
  byId("back").disabled = done === 0;
  show("trial");
  shownAt = performance.now();
  byId("trial").classList.add("wait");
  clearTimeout(waiting);
  waiting = setTimeout(() => byId("trial").classList.remove("wait"), 1000 * facts.minimum);
}

// An answer within the first moments is not one: the second click of a double click, or a held key.
function choose(side) {
  const seconds = Math.floor((performance.now() - shownAt) / 100) / 10;
  if (byId("trial").hidden || seconds < facts.minimum) return;
  const { trial, question, left } = questions[session.answers.length];
  const chosen = side === "neither" ? null : side === "left" ? left : 1 - left;
  session.answers.push({ comparison: trial.id, question, left, chosen, seconds });
  store();
  next();
}

function back() {
  if (byId("trial").hidden || !session.answers.length) return;
  session.answers.pop();
  store();
  next();
}

function answers() {
  const { rater, answers } = session;
  return JSON.stringify({ kind: "palimpsest-answers", schema: 2, page: facts.page, rater, answers }, null, 1);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([answers()], { type: "application/json" }));
  link.download = `answers-${facts.study}-${session.rater.slice(0, 8)}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const span of document.querySelectorAll(".number")) span.textContent = questions.length;
for (const span of document.querySelectorAll(".minutes")) span.textContent = Math.ceil((questions.length * 5) / 60);
byId("begin").onclick = () => {
  session.agreed = true;
  store();
  next();
};
byId("left").onclick = () => choose("left");
byId("right").onclick = () => choose("right");
byId("neither").onclick = () => choose("neither");
byId("back").onclick = back;
byId("save").onclick = save;
document.addEventListener("keydown", (event) => {
  const act = { ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), ArrowDown: () => choose("neither"), Backspace: back }[event.key];
  if (!act || event.repeat || event.ctrlKey || event.metaKey || event.altKey || byId("trial").hidden) return;
  event.preventDefault();
  act();
});
next();
