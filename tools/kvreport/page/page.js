"use strict";
// Everything here is a comfort: without script the page shows the same figures.
(() => {
  const words = document.body.dataset;

  // --- figures of a mark on hover, touch and focus
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  document.body.append(tip);
  for (const title of document.querySelectorAll("svg [data-tip] > title")) title.remove();
  const show = (mark, x, y) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 16 + box.height > innerHeight ? y - box.height - 10 : y + 16}px`;
  };
  const marked = (event) => event.target.closest && event.target.closest("[data-tip]");
  addEventListener("pointermove", (event) => {
    const mark = marked(event);
    if (mark) show(mark, event.clientX, event.clientY);
    else if (!document.activeElement.matches("[data-tip]")) tip.hidden = true;
  });
  addEventListener("focusin", (event) => {
    const mark = marked(event);
    if (!mark) { tip.hidden = true; return; }
    const box = mark.getBoundingClientRect();
    show(mark, box.left + box.width / 2, box.bottom - 12);
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // --- tables that can be sorted; figures of a column share a unit
  const key = (cell) => {
    const text = cell.textContent.trim();
    const found = text.replace(/,(?=\d{3})/g, "").match(/^[^\d]*?([-+]?\d+(?:\.\d+)?)/);
    return text === "-" ? null : found && cell.classList.contains("right") ? +found[1] : text;
  };
  const order = (one, two) => {
    if (one === null || two === null) return (one === null) - (two === null);
    if (typeof one === "number" && typeof two === "number") return one - two;
    return String(one).localeCompare(String(two), undefined, { numeric: true });
  };
  for (const table of document.querySelectorAll("table[data-sort]")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [key(row.cells[at]), row]);
        // What has no figure stays last, whichever way the rest is sorted.
        rows.sort(([one], [two]) =>
          one === null || two === null ? order(one, two) : down ? order(two, one) : order(one, two));
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  // --- the index: only scenarios with a finding, or with a word in their names
  const index = document.querySelector("table[data-index]");
  if (index) {
    const tags = new Map();
    for (const row of index.tBodies[0].rows) {
      for (const tag of (row.dataset.tags || "").split(" ").filter(Boolean)) {
        tags.set(tag, (tags.get(tag) || 0) + 1);
      }
    }
    const tools = document.createElement("div");
    tools.className = "tools";
    const labelled = (text, field) => {
      const label = document.createElement("label");
      label.append(text, field);
      tools.append(label);
      return field;
    };
    const select = labelled(words.filter, document.createElement("select"));
    select.append(new Option(words.all, ""));
    for (const [tag, count] of [...tags].sort()) select.append(new Option(`${tag} (${count})`, tag));
    const input = labelled(words.search, document.createElement("input"));
    input.type = "search";
    const count = document.createElement("output");
    tools.append(count);
    index.closest(".scroll").before(tools);
    const apply = () => {
      let shown = 0;
      for (const row of index.tBodies[0].rows) {
        const has = !select.value || (row.dataset.tags || "").split(" ").includes(select.value);
        const named = row.cells[0].textContent.toLowerCase().includes(input.value.toLowerCase());
        row.hidden = !(has && named);
        shown += has && named;
        const link = row.querySelector("a");
        const part = link && document.getElementById(decodeURIComponent(link.hash.slice(1)));
        if (part) part.hidden = row.hidden;
      }
      count.textContent = `${shown}/${index.tBodies[0].rows.length}`;
    };
    select.addEventListener("change", apply);
    input.addEventListener("input", apply);
    apply();
  }

  // --- details: open the one that a link leads to, and all of them for print
  const reveal = () => {
    const part = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (part && part.tagName === "DETAILS") { part.open = true; part.scrollIntoView(); }
  };
  addEventListener("hashchange", reveal);
  reveal();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
})();
