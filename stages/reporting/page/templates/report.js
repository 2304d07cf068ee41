"use strict";
// Selects what is shown. Without this script the page shows everything, one part below the other.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const chosen = (root, name) => root.querySelector(`input[name="${name}"]:checked`);
  const films = JSON.parse(document.getElementById("films").textContent);
  let metric = (document.querySelector("#metrics input:checked") || {}).value;

  function showMetric() {
    for (const panel of all(".panel")) panel.hidden = metric !== undefined && panel.dataset.metric !== metric;
    all(".film").forEach(showFilm);
  }

  function showRun(choice) {
    all("input", choice).forEach((run) => { document.querySelector(`[data-film="${run.value}"]`).hidden = !run.checked; });
  }

  // The filmstrip: one number selects the column of every sheet.
  function showFilm(film) {
    const n = film.dataset.film;
    const concept = Number(chosen(film, `concept-${n}`).value);
    const noises = all(`input[name="noise-${n}"]`, film).length;
    all(".reel", film).forEach((reel, at) => {
      reel.hidden = at !== concept;
      if (reel.hidden) return;
      const prompt = Number(chosen(reel, reel.querySelector(".prompts input").name).value);
      const pick = prompt * noises + Number(chosen(film, `noise-${n}`).value);
      reel.style.setProperty("--pick", pick);
      const data = films[n][concept];
      const scores = data.scores[metric] || Object.values(data.scores)[0];
      write(reel.querySelector("[data-at=base]"), scores[0][pick], false); // the base has learned nothing
      all("tbody tr", reel).forEach((row, r) => all(".cell", row).forEach((cell, f) => {
        write(cell, scores[r + 1][f][pick], data.own[r + 1][f][pick]);
      }));
    });
  }

  function write(cell, score, own) {
    const picture = cell.querySelector(".pic"), value = cell.querySelector(".value");
    const text = score.toFixed(2).replace("-0.00", "0.00");
    picture.dataset.name ??= picture.getAttribute("aria-label");
    picture.setAttribute("aria-label", `${picture.dataset.name}: score ${text}`);
    value.textContent = text.replace("-", "\u2212");
    if (!own) return;
    const tick = document.createElement("span");
    tick.className = "own";
    tick.textContent = " \u2713";
    value.append(tick);
  }

  // Charts: the value of a mark, at the pointer and for the arrow keys.
  const tip = document.getElementById("tip");
  let active = null;

  function hideTip() {
    if (active) active.classList.remove("at");
    active = null;
    tip.hidden = true;
  }

  function showTip(mark, x, y) {
    hideTip();
    active = mark;
    mark.classList.add("at");
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 12, innerWidth - box.width - 8))}px`;
    tip.style.top = `${y - box.height - 12 < 8 ? y + 16 : y - box.height - 12}px`;
  }

  for (const event of ["pointermove", "pointerdown"]) {
    document.addEventListener(event, (e) => {
      const mark = e.target.closest && e.target.closest(".chart [data-tip]");
      if (mark) showTip(mark, e.clientX, e.clientY);
      else if (active && !tip.dataset.keys) hideTip();
      delete tip.dataset.keys;
    });
  }

  for (const chart of all(".chart")) {
    let at = -1;
    chart.addEventListener("keydown", (e) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
      if (e.key === "Escape") hideTip();
      const marks = all("[data-tip]", chart);
      if (!step || !marks.length) return;
      e.preventDefault();
      at = (at + step + marks.length) % marks.length;
      const box = marks[at].getBoundingClientRect();
      showTip(marks[at], box.right, box.top);
      tip.dataset.keys = "1";
    });
    chart.addEventListener("blur", () => { at = -1; hideTip(); });
  }

  // Marks the current section in the table of contents.
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    const top = entries.filter((entry) => entry.isIntersecting)[0];
    if (!top) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(top.target.id).setAttribute("aria-current", "true");
  }, { rootMargin: "-20% 0px -70% 0px" });
  all("main > section").forEach((section) => observer.observe(section));

  document.addEventListener("change", (e) => {
    if (e.target.name === "metric") { metric = e.target.value; showMetric(); }
    const film = e.target.closest(".film"), runs = e.target.closest(".runs");
    if (runs) showRun(runs);
    if (film) showFilm(film);
  });
  all(".runs").forEach(showRun);
  showMetric();
})();
