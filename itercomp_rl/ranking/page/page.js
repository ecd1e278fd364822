"use strict";
// The order of the images is a list of {slot, tied}: tied means in one place with the image before it.

const $ = (id) => document.getElementById(id);
let rater = "";
let task = null;
let order = [];
let selected = 0;
let dragged = null;
let isBusy = false;

const text = (node, words) => { node.textContent = words; };
const tell = (words) => text($("live"), words);

async function ask(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({rater, ...body}),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function go(path, body = {}) {
  if (isBusy) return;
  isBusy = true;
  text($("error"), "");
  try {
    show(await ask(path, body));
  } catch (error) {
    text($("error"), error.message);
  } finally {
    isBusy = false;
  }
}

function show(state) {
  const {ranked, skipped, total} = state.progress;
  text($("progress"), `${rater}: ${ranked} ranked, ${skipped} skipped, ${total - ranked - skipped} to go`);
  showAgreement(state.agreement);
  task = state.task;
  $("who").hidden = true;
  $("task").hidden = !task;
  $("done").hidden = Boolean(task);
  $("undo").disabled = ranked + skipped === 0;
  if (!task) { $("undo-done").focus(); return; }
  text($("prompt"), task.prompt);
  text($("question"), task.question);
  order = task.images.map((url, slot) => ({slot, tied: false}));
  selected = 0;
  draw();
  tell(`Next: ${task.prompt}. ${task.question} ${order.length} images.`);
}

function showAgreement(rows) {
  $("agreement").hidden = rows.length === 0;
  $("agreement").querySelector("tbody").replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    for (const words of [`${row.one} and ${row.other}`, row.tau.toFixed(2), row.tasks]) {
      const cell = document.createElement("td");
      text(cell, words);
      line.append(cell);
    }
    return line;
  }));
}

function places() {
  const found = [];
  for (const {slot, tied} of order) {
    if (tied && found.length) found[found.length - 1].push(slot); else found.push([slot]);
  }
  return found;
}

function draw() {
  let place = 0;
  const numbers = order.map(({tied}, i) => (tied && i ? place : (place = i + 1)));
  $("images").replaceChildren(...order.map((entry, i) => {
    const item = document.createElement("li");
    const isTied = entry.tied && i > 0;
    item.className = isTied ? "tied" : "";
    const card = document.createElement("button");
    card.type = "button";
    card.className = "card";
    card.draggable = true;
    card.tabIndex = i === selected ? 0 : -1;
    card.setAttribute("aria-pressed", String(i === selected));
    const image = document.createElement("img");
    image.src = task.images[entry.slot];
    image.alt = `Image ${String.fromCharCode(65 + entry.slot)}`;
    image.draggable = false;
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 256));
    const label = document.createElement("span");
    label.className = "place";
    const left = document.createElement("span");
    text(left, `place ${numbers[i]}${isTied ? ", tied" : ""}`);
    const right = document.createElement("span");
    right.setAttribute("aria-hidden", "true");
    text(right, String.fromCharCode(65 + entry.slot));
    label.append(left, right);
    card.append(image, label);
    card.addEventListener("click", () => select(i));
    card.addEventListener("focus", () => { if (selected !== i) select(i); });
    card.addEventListener("dragstart", (event) => { dragged = i; event.dataTransfer.effectAllowed = "move"; });
    item.addEventListener("dragover", (event) => { event.preventDefault(); item.classList.add("over"); });
    item.addEventListener("dragleave", () => item.classList.remove("over"));
    item.addEventListener("drop", (event) => {
      event.preventDefault();
      if (dragged !== null) { selected = dragged; dragged = null; moveTo(i); }
    });
    item.append(card);
    return item;
  }));
  $("earlier").disabled = selected === 0;
  $("later").disabled = selected === order.length - 1;
  $("tie").disabled = selected === 0;
  $("tie").setAttribute("aria-pressed", String(selected > 0 && order[selected].tied));
}

const focusCard = () => $("images").children[selected].firstChild.focus();

function select(i) {
  selected = i;
  for (const [place, item] of [...$("images").children].entries()) {
    item.firstChild.setAttribute("aria-pressed", String(place === i));
    item.firstChild.tabIndex = place === i ? 0 : -1;
  }
  $("earlier").disabled = $("tie").disabled = i === 0;
  $("later").disabled = i === order.length - 1;
  $("tie").setAttribute("aria-pressed", String(i > 0 && order[i].tied));
}

function moveTo(place) {
  if (place < 0 || place >= order.length || place === selected) return;
  const [entry] = order.splice(selected, 1);
  entry.tied = false;
  order.splice(place, 0, entry);
  if (order[0].tied) order[0].tied = false;
  selected = place;
  draw();
  focusCard();
  tell(`Image ${String.fromCharCode(65 + entry.slot)} is now in place ${place + 1} of ${order.length}`);
}

function tie() {
  if (selected === 0) return;
  order[selected].tied = !order[selected].tied;
  draw();
  focusCard();
  tell(order[selected].tied ? "Tied with the image before it" : "No longer tied");
}

const submit = () => go("api/rank", {task: task.id, places: places()});
const skip = () => go("api/skip", {task: task.id});
const undo = () => go("api/undo");

const KEYS = {
  ArrowLeft: () => moveTo(selected - 1),
  ArrowUp: () => moveTo(selected - 1),
  ArrowRight: () => moveTo(selected + 1),
  ArrowDown: () => moveTo(selected + 1),
  t: tie,
  s: skip,
  u: undo,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat && event.key === "Enter") return;
  if (event.target instanceof HTMLInputElement || $("task").hidden) return;
  const onCard = event.target.classList.contains("card");
  if (event.key === "Enter" && (onCard || event.target === document.body)) {
    event.preventDefault();
    submit();
  } else if (/^[1-9]$/.test(event.key) && Number(event.key) <= order.length) {
    moveTo(Number(event.key) - 1);
  } else if (KEYS[event.key] && (onCard || event.target === document.body || !event.key.startsWith("Arrow"))) {
    event.preventDefault();
    KEYS[event.key]();
  } else if (event.key === "Tab" && onCard) {
    const next = selected + (event.shiftKey ? -1 : 1);
    if (next >= 0 && next < order.length) {
      event.preventDefault();
      select(next);
      focusCard();
    }
  }
});

$("earlier").addEventListener("click", () => moveTo(selected - 1));
$("later").addEventListener("click", () => moveTo(selected + 1));
$("tie").addEventListener("click", tie);
$("submit").addEventListener("click", submit);
$("skip").addEventListener("click", skip);
$("undo").addEventListener("click", undo);
$("undo-done").addEventListener("click", undo);
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = $("name").value.trim();
  localStorage.setItem("rater", rater);
  go("api/next");
});
$("name").value = localStorage.getItem("rater") || "";
$("name").focus();
