"use strict"
const body = document.body
const said = document.getElementById("said")
const link = document.getElementById("link")
const ENDED = "not connected: is palimpsest watch still running?"
const address = (path, query = {}) => path + "?" + new URLSearchParams({token: body.dataset.token, ...query})
const source = new EventSource(address("events"))
source.addEventListener("part", event => {
  const part = JSON.parse(event.data)
  const element = document.getElementById(part.id)
  if (!element) return
  const open = element.querySelector("details[open]") !== null
  const scrolled = [...element.querySelectorAll(".scroll")].map(one => one.scrollLeft)
  const chosen = element.querySelector("select")?.value
  const last = element.querySelector("select option:last-child")?.value
  element.innerHTML = part.html
  if (chosen && chosen !== last) element.querySelector("select").value = chosen
  if (open) element.querySelector("details")?.setAttribute("open", "")
  element.querySelectorAll(".scroll").forEach((one, k) => { one.scrollLeft = scrolled[k] || 0 })
})
source.addEventListener("outline", event => {
  outdated = event.data !== body.dataset.outline
  refresh()
})
source.addEventListener("fault", event => {
  const fault = JSON.parse(event.data)
  link.textContent = fault ? "not up to date: " + fault : "live"
})
source.onopen = () => { link.textContent = "live" }
source.onerror = () => { link.textContent = ENDED }

// The page needs other elements: it is loaded again, but not while an answer is awaited.
let outdated = false
let awaited = 0
function refresh() {
  if (!outdated || awaited) return
  sessionStorage.setItem("said", said.textContent)
  location.reload()
}

async function ask(path, content, query) {
  try {
    const answer = await fetch(address(path, query), {method: "POST", body: content})
    return answer.status === 403 ? {error: await answer.text()} : await answer.json()
  } catch { return {error: ENDED} }
}

// Does some work that `button` began, says so in `line`, and then its error.
async function busy(button, line, words, work) {
  button.disabled = true
  awaited += 1
  line.textContent = words
  const answer = await work()
  line.textContent = answer.error || answer.line || ""
  awaited -= 1
  button.disabled = false
  return answer
}

async function exported(form) {
  const line = form.closest("figure").querySelector(".answer")
  const wanted = {run: form.dataset.run, task: form.elements.task.value}
  const answer = await busy(form.querySelector("button"), line, "exporting", () => ask("export", JSON.stringify(wanted)))
  if (answer.error) return
  const file = document.createElement("a")
  Object.assign(file, {href: address("exported", {name: answer.file}), download: answer.file, textContent: "Download"})
  line.prepend(file, " ")
}

// The photos that will be sent: [name within the chosen folder, file]
let photos = []
let draft = ""
const form = document.getElementById("add")
const preview = document.getElementById("preview")
const go = document.getElementById("go")

function choose(files) {
  photos = files.sort((a, b) => (a[0] < b[0] ? -1 : 1))
  const megabytes = photos.reduce((sum, [, file]) => sum + file.size, 0) / (1 << 20)
  const count = photos.length === 1 ? "1 file" : photos.length + " files"
  document.getElementById("chosen").textContent = photos.length ? `${count}, ${megabytes.toFixed(1)} MB` : "no photos chosen"
  forget()
}

function forget() {
  draft = ""
  preview.hidden = go.hidden = true
}

async function entries(entry, path) {
  if (entry.isFile) return [[path + entry.name, await new Promise((done, failed) => entry.file(done, failed))]]
  const reader = entry.createReader()
  const files = []
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed))
    if (!some.length) return files
    for (const one of some) files.push(...await entries(one, path + entry.name + "/"))
  }
}

const within = name => name.slice(name.indexOf("/") + 1)

async function dropped(transfer) {
  const items = [...transfer.items].filter(item => item.kind === "file")
  const found = items.map(item => [item.webkitGetAsEntry(), item.getAsFile()])
  if (found.length === 1 && found[0][0]?.isDirectory) {
    return (await entries(found[0][0], "")).map(([name, file]) => [within(name), file])
  }
  return (await Promise.all(found.map(([entry, file]) => entry ? entries(entry, "") : [[file.name, file]]))).flat()
}

async function show() {
  forget()
  const files = photos.map(([name, file]) => ({name, size: file.size}))
  const wanted = {name: form.elements.name.value, noun: form.elements.noun.value.trim(), files}
  const answer = await busy(form.querySelector("button"), said, "checking the photos", async () => {
    const begun = await ask("draft", JSON.stringify(wanted))
    if (begun.error) return begun
    return {...begun, ...await ask("photos", new Blob(photos.map(([, file]) => file)), begun)}
  })
  if (answer.error) return
  draft = answer.draft
  preview.textContent = answer.line
  said.textContent = ""
  preview.hidden = go.hidden = false
}

async function add() {
  await busy(go, said, "adding", () => ask("add", JSON.stringify({draft})))
  forget()
}

if (form) {
  form.elements.photos.onchange = event => {
    form.elements.folder.value = ""
    choose([...event.target.files].map(file => [file.name, file]))
  }
  form.elements.folder.onchange = event => {
    form.elements.photos.value = ""
    choose([...event.target.files].map(file => [within(file.webkitRelativePath), file]))
  }
  form.oninput = forget
  form.ondragover = event => event.preventDefault()
  form.ondrop = async event => {
    event.preventDefault()
    form.elements.photos.value = form.elements.folder.value = ""
    try { choose(await dropped(event.dataTransfer)) } catch { said.textContent = "the dropped files cannot be read" }
  }
  go.onclick = () => add().then(refresh)
}
said.textContent = sessionStorage.getItem("said") || ""
sessionStorage.removeItem("said")

document.addEventListener("submit", event => {
  event.preventDefault()
  const work = event.target === form ? show() : exported(event.target)
  work.then(refresh)
})
