"use strict"
const body = document.body
const link = document.getElementById("link")
const source = new EventSource("events?token=" + encodeURIComponent(body.dataset.token))
source.addEventListener("part", event => {
  const part = JSON.parse(event.data)
  const element = document.getElementById(part.id)
  if (!element) return
  const open = element.querySelector("details[open]") !== null
  const scrolled = [...element.querySelectorAll(".scroll")].map(one => one.scrollLeft)
  element.innerHTML = part.html
  if (open) element.querySelector("details")?.setAttribute("open", "")
  element.querySelectorAll(".scroll").forEach((one, k) => { one.scrollLeft = scrolled[k] || 0 })
})
source.addEventListener("outline", event => { if (event.data !== body.dataset.outline) location.reload() })
source.onopen = () => { link.textContent = "live" }
source.onerror = () => { link.textContent = "not connected: is palimpsest watch still running?" }
