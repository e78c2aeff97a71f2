"use strict";
(() => {
  const data = JSON.parse(document.getElementById("review-data").textContent);
  const { review, rubric, items } = data;
  const store = `finetune-review-${review}`;
  const choices = ["left", "same", "right"];
  const find = (id) => document.getElementById(id);
  const form = find("form");
  const groups = [...form.querySelectorAll("fieldset")];
  const names = new Set(items.map((item) => item.id));
  let verdicts = new Map();
  let at = 0;

  const isJudged = (item) => {
    const verdict = verdicts.get(item.id);
    return verdict !== undefined && rubric.every((name) => verdict.choices.has(name));
  };
  const toFile = () => ({
    kind: "ReviewVerdicts",
    review,
    reviewer: find("reviewer").value.trim(),
    verdicts: Object.fromEntries([...verdicts].map(([id, verdict]) => [id, {
      choices: Object.fromEntries(verdict.choices),
      ...(verdict.comment ? { comment: verdict.comment } : {}),
    }])),
  });
  const fromFile = (body) => {
    const read = new Map();
    for (const [id, verdict] of Object.entries(body.verdicts)) {
      if (!names.has(id)) continue;
      const chosen = Object.entries(verdict.choices || {})
        .filter(([name, choice]) => rubric.includes(name) && choices.includes(choice));
      read.set(id, { choices: new Map(chosen), comment: String(verdict.comment || "") });
    }
    return read;
  };
  const remember = () => {
    try {
      localStorage.setItem(store, JSON.stringify(toFile()));
    } catch {
      // Some browsers keep nothing for local files: the saved file is what counts.
    }
  };
  const recall = () => {
    try {
      const body = JSON.parse(localStorage.getItem(store));
      if (!body || body.review !== review) return;
      find("reviewer").value = body.reviewer;
      verdicts = fromFile(body);
    } catch {
      verdicts = new Map();
    }
  };

  const told = () => {
    const done = items.filter(isJudged).length;
    if (!items.length) {
      find("progress").textContent = "Both models answer every question alike: there is nothing "
        + "to judge. Save the file, it counts.";
      return;
    }
    const rest = done === items.length ? "Everything is judged: save the file." : "";
    find("progress").textContent = `${done} of ${items.length} judged. ${rest}`.trim();
    find("open").disabled = done === items.length;
  };
  const labelled = (tag, name, text) => {
    const element = document.createElement(tag);
    element.className = name;
    element.textContent = text;
    if (name === "text") element.dir = "auto";
    return element;
  };
  const show = (place, moves = true) => {
    form.hidden = !items.length;
    if (!items.length) {
      told();
      return;
    }
    at = place;
    const item = items[at];
    const verdict = verdicts.get(item.id) || { choices: new Map(), comment: "" };
    find("place").textContent = `Question ${at + 1} of ${items.length}`;
    find("question").replaceChildren(...item.turns.flatMap((turn) => [
      labelled("span", "label", turn.role), labelled("div", "text", turn.text),
    ]));
    find("left").textContent = item.left;
    find("right").textContent = item.right;
    for (const group of groups) {
      const choice = verdict.choices.get(group.dataset.criterion);
      for (const input of group.querySelectorAll("input")) input.checked = input.value === choice;
    }
    find("comment").value = verdict.comment;
    find("previous").disabled = at === 0;
    find("next").disabled = at === items.length - 1;
    if (moves) find("place").focus();
    told();
  };
  const note = () => {
    const chosen = groups.flatMap((group) => {
      const input = group.querySelector("input:checked");
      return input ? [[group.dataset.criterion, input.value]] : [];
    });
    const comment = find("comment").value;
    if (chosen.length || comment) verdicts.set(items[at].id, { choices: new Map(chosen), comment });
    else verdicts.delete(items[at].id);
    remember();
    told();
  };

  const save = () => {
    const body = toFile();
    const problem = body.reviewer ? "" : "Write your name first: a file without one does not count.";
    find("name-problem").textContent = problem;
    find("reviewer").setAttribute("aria-invalid", String(Boolean(problem)));
    if (problem) {
      find("reviewer").focus();
      return;
    }
    const link = document.createElement("a");
    const text = `${JSON.stringify(body, null, 1)}\n`;
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    const file = body.reviewer.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-");
    link.download = `verdicts-${file}-${review.slice(0, 8)}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  const load = async (file) => {
    let problem = "";
    try {
      const body = JSON.parse(await file.text());
      if (!body || body.kind !== "ReviewVerdicts" || typeof body.verdicts !== "object") {
        problem = `${file.name} is no file of verdicts.`;
      } else if (body.review !== review) {
        problem = `${file.name} is about another review, not about the answers on this page.`;
      } else {
        verdicts = fromFile(body);
        find("reviewer").value = String(body.reviewer || "");
        remember();
        show(Math.max(0, items.findIndex((item) => !isJudged(item))));
      }
    } catch {
      problem = `${file.name} is damaged: it is no JSON.`;
    }
    find("file-problem").textContent = problem;
  };

  form.addEventListener("change", note);
  find("comment").addEventListener("input", note);
  find("reviewer").addEventListener("input", remember);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (at < items.length - 1) show(at + 1);
  });
  form.addEventListener("keydown", (event) => {
    const group = event.target.closest("fieldset") || groups[0];
    const choice = choices[["1", "2", "3"].indexOf(event.key)];
    const isTyping = event.target.id === "comment";
    if (!choice || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    group.querySelector(`input[value=${choice}]`).checked = true;
    note();
    const following = groups[groups.indexOf(group) + 1];
    const target = following ? following.querySelector("input") : find("next");
    (target.disabled ? find("save") : target).focus();
  });
  find("previous").addEventListener("click", () => show(at - 1));
  find("open").addEventListener("click", () => {
    const order = items.map((_, step) => (at + 1 + step) % items.length);
    const open = order.find((place) => !isJudged(items[place]));
    if (open !== undefined) show(open);
  });
  find("save").addEventListener("click", save);
  find("load").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) load(file);
    event.target.value = "";
  });
  find("forget").addEventListener("click", () => {
    verdicts = new Map();
    find("reviewer").value = "";
    try {
      localStorage.removeItem(store);
    } catch {
      // Nothing was kept.
    }
    show(0);
  });

  recall();
  find("app").hidden = false;
  show(Math.max(0, items.findIndex((item) => !isJudged(item))), false);
})();
