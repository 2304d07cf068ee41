"use strict";
// Selects what is shown. Without this script the page shows everything, one part below the other.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;
  const chosen = (name) => document.querySelector(`input[name="${CSS.escape(name)}"]:checked`);
  const films = JSON.parse(document.getElementById("films").textContent);
  let metric = chosen("metric")?.value;
  let only = "";

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
    const concept = Number(chosen(`concept-${n}`).value);
    const noises = all(`input[name="noise-${n}"]`, film).length;
    all(".reel", film).forEach((reel, at) => {
      reel.hidden = at !== concept;
      if (reel.hidden) return;
      const prompt = Number(chosen(reel.querySelector(".prompts input").name).value);
      const pick = prompt * noises + Number(chosen(`noise-${n}`).value);
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

  // One strategy, or all: the others lose their colour.
  const buttons = all("[data-only]");
  const colours = buttons.map((button) => button.querySelector("svg").getAttribute("class"));

  function showOnly(name) {
    only = buttons.some((button) => button.dataset.only === name) ? name : "";
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.only === only));
    for (const colour of colours) root.style.removeProperty(`--${colour}`);
    const own = colours[buttons.findIndex((button) => button.dataset.only === only)];
    if (only) for (const colour of colours) if (colour !== own) root.style.setProperty(`--${colour}`, "var(--line)");
    for (const row of all("tr[data-strategy]")) {
      const others = buttons.some((button) => button.dataset.only === row.dataset.strategy);
      row.classList.toggle("faint", Boolean(only) && others && row.dataset.strategy !== only);
    }
  }

  // The address holds what is selected: #filmstrip?metric=dino&strategy=magmax&film=0&concept=mug&prompt=1&noise=1
  const number = (value, most) => Math.min(Math.max(Math.trunc(Number(value)) || 1, 1), most) - 1;

  function readAddress() {
    const [section, query] = location.hash.slice(1).split("?");
    if (query === undefined) return;
    const asked = new URLSearchParams(query);
    const check = (inputs, at) => { if (inputs[at]) inputs[at].checked = true; };
    const metrics = all("#metrics input");
    check(metrics, metrics.findIndex((input) => input.value === asked.get("metric")));
    metric = chosen("metric")?.value;
    const n = number(Number(asked.get("film")) + 1, films.length);
    const film = document.querySelector(`[data-film="${n}"]`);
    all(".runs input").filter((input) => input.value === String(n)).forEach((input) => { input.checked = true; });
    const concepts = all(".concepts input", film);
    check(concepts, concepts.findIndex((input) => input.dataset.key === asked.get("concept")));
    const reel = all(".reel", film)[Number(chosen(`concept-${n}`).value)];
    const prompts = all(".prompts input", reel), noises = all(".noises input", film);
    check(prompts, number(asked.get("prompt"), prompts.length));
    check(noises, number(asked.get("noise"), noises.length));
    showOnly(asked.get("strategy"));
    all(".runs").forEach(showRun);
    showMetric();
    document.getElementById(section)?.scrollIntoView({ behavior: "instant" });
  }

  function writeAddress(film) {
    const section = film ? "filmstrip" : document.querySelector(".contents [aria-current]")?.hash.slice(1) || "overview";
    const asked = new URLSearchParams();
    if (metric) asked.set("metric", metric);
    if (only) asked.set("strategy", only);
    if (film) {
      const n = film.dataset.film, concept = chosen(`concept-${n}`);
      const reel = all(".reel", film)[Number(concept.value)];
      if (n !== "0") asked.set("film", n);
      asked.set("concept", concept.dataset.key);
      asked.set("prompt", Number(chosen(reel.querySelector(".prompts input").name).value) + 1);
      asked.set("noise", Number(chosen(`noise-${n}`).value) + 1);
    }
    history.replaceState(null, "", `#${section}?${asked}`);
  }

  // A picture enlarged, over the one before it in time: the first of its row, or the base model's.
  const zoom = document.getElementById("zoom"), compare = zoom.querySelector(".compare"), slider = zoom.querySelector("input");
  let row = [], at = 0;

  function before(picture) {
    const cell = picture.closest("td"), reel = picture.closest(".reel");
    if (!cell || picture.closest(".classes")) return null;
    const first = cell.dataset.of ? cell.closest("tr").querySelector(`[data-of="${cell.dataset.of}"] .pic`) : row[0];
    if (first !== picture) return first;
    return reel ? reel.querySelector("[data-at=base] .pic")
      : document.querySelector(`[data-strategy="base model"] [data-of="${cell.dataset.of}"] .pic`);
  }

  function layer(name, picture) {
    const target = compare.querySelector(`[data-layer=${name}]`), style = getComputedStyle(picture);
    target.className = `pic ${[...picture.classList].find((word) => /^p\d+$/.test(word))}`;
    for (const key of ["--pick", "--y"]) target.style.setProperty(key, style.getPropertyValue(key));
    zoom.querySelector(`[data-side=${name}]`).textContent = picture.dataset.name || picture.getAttribute("aria-label");
  }

  function enlarge(picture) {
    row = all(".pic", picture.closest("tr, .row, .sources"));
    at = row.indexOf(picture);
    const first = before(picture), two = Boolean(first) && first !== picture;
    zoom.classList.toggle("pixels", Boolean(picture.closest(".pixels")));
    compare.classList.toggle("two", two);
    slider.hidden = !two;
    zoom.querySelector(".sides").hidden = !two;
    layer("before", two ? first : picture);
    layer("after", picture);
    zoom.querySelector("h3").textContent = picture.getAttribute("aria-label");
    compare.style.setProperty("--at", `${slider.value}%`);
    for (const button of all("[data-step]", zoom)) button.disabled = !row[at + Number(button.dataset.step)];
    if (!zoom.open) zoom.showModal();
  }

  slider.addEventListener("input", () => compare.style.setProperty("--at", `${slider.value}%`));
  for (const button of all("[data-step]", zoom)) button.addEventListener("click", () => enlarge(row[at + Number(button.dataset.step)]));
  document.addEventListener("click", (e) => {
    const picture = e.target.closest(".pic");
    if (picture && !zoom.contains(picture) && !picture.closest("label")) enlarge(picture);
    else if (e.target === zoom) zoom.close(); // the backdrop
    const button = e.target.closest("[data-only]");
    if (!button) return;
    showOnly(button.dataset.only === only ? "" : button.dataset.only);
    writeAddress();
  });
  document.addEventListener("keydown", (e) => {
    const picture = e.key === "Enter" && e.target.matches(".scroll") && e.target.querySelector(".pic");
    if (!picture) return;
    e.preventDefault(); // or the same key would press the button that gets the focus
    enlarge(picture);
  });

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
    let mark = -1;
    chart.addEventListener("keydown", (e) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
      if (e.key === "Escape") hideTip();
      const marks = all("[data-tip]", chart);
      if (!step || !marks.length) return;
      e.preventDefault();
      mark = (mark + step + marks.length) % marks.length;
      const box = marks[mark].getBoundingClientRect();
      showTip(marks[mark], box.right, box.top);
      tip.dataset.keys = "1";
    });
    chart.addEventListener("blur", () => { mark = -1; hideTip(); });
  }

  // Marks the current section in the table of contents.
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    const top = entries.filter((entry) => entry.isIntersecting)[0];
    if (!top) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(top.target.id).setAttribute("aria-current", "true");
  }, { rootMargin: "-20% 0px -70% 0px" });
  all("main section").forEach((section) => observer.observe(section));

  document.addEventListener("change", (e) => {
    const film = e.target.closest(".film"), runs = e.target.closest(".runs");
    if (e.target.name === "metric") { metric = e.target.value; showMetric(); }
    if (runs) showRun(runs);
    if (film) showFilm(film);
    if (film || runs) writeAddress(film || document.querySelector(`[data-film="${e.target.value}"]`));
    else if (e.target.name === "metric") writeAddress();
  });
  addEventListener("hashchange", readAddress);
  all(".runs").forEach(showRun);
  showMetric();
  root.classList.add("ready");
  readAddress();
})();
