"use strict";
// Chooses what is shown. Without it everything is there, one below the other.
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

  // The filmstrip: one number says which column of every sheet is shown.
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
    picture.dataset.name ??= picture.getAttribute("aria-label");
    picture.setAttribute("aria-label", `${picture.dataset.name}: score ${score.toFixed(2)}`);
    value.textContent = score.toFixed(2).replace("-", "\u2212");
    if (!own) return;
    const tick = document.createElement("span");
    tick.className = "own";
    tick.textContent = " \u2713";
    value.append(tick);
  }

  // Charts: what a mark stands for, under the pointer and for the arrow keys.
  const tip = document.getElementById("tip");
  let lit = null;

  function hide() {
    if (lit) lit.classList.remove("at");
    lit = null;
    tip.hidden = true;
  }

  function tell(mark, x, y) {
    hide();
    lit = mark;
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
      if (mark) tell(mark, e.clientX, e.clientY);
      else if (lit && !tip.dataset.keys) hide();
      delete tip.dataset.keys;
    });
  }

  for (const chart of all(".chart")) {
    let at = -1;
    chart.addEventListener("keydown", (e) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
      if (e.key === "Escape") hide();
      const marks = all("[data-tip]", chart);
      if (!step || !marks.length) return;
      e.preventDefault();
      at = (at + step + marks.length) % marks.length;
      const box = marks[at].getBoundingClientRect();
      tell(marks[at], box.right, box.top);
      tip.dataset.keys = "1";
    });
    chart.addEventListener("blur", () => { at = -1; hide(); });
  }

  // Which section one is in.
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((seen) => {
    const top = seen.filter((entry) => entry.isIntersecting)[0];
    if (!top) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(top.target.id).setAttribute("aria-current", "true");
  }, { rootMargin: "-20% 0px -70% 0px" });
  all("main > section").forEach((section) => watch.observe(section));

  document.addEventListener("change", (e) => {
    if (e.target.name === "metric") { metric = e.target.value; showMetric(); }
    const film = e.target.closest(".film"), runs = e.target.closest(".runs");
    if (runs) showRun(runs);
    if (film) showFilm(film);
  });
  all(".runs").forEach(showRun);
  showMetric();
})();
