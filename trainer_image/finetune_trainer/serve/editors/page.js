"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const endpoint = find("endpoint").textContent;
  const stored = `finetune-key ${endpoint}`;
  const list = find("answers");
  let last = "";
  let round = 0;

  const tell = (text) => { find("status").textContent = text; };

  const ask = async (path, fields) => {
    const request = {
      method: fields ? "POST" : "GET",
      headers: { Authorization: `Bearer ${sessionStorage.getItem(stored)}`,
        "Content-Type": "application/json" },
      body: fields ? JSON.stringify(fields) : undefined,
      credentials: "omit", redirect: "error",
    };
    const answer = await fetch(path, request).catch(() => {
      throw new Error("The endpoint cannot be reached. Try again.");
    });
    // What stands before the endpoint may answer in its own words, which are no JSON.
    const said = await answer.json().catch(() => null);
    if (answer.ok && said) return said;
    if (answer.status === 401) leave();
    const words = `The endpoint answered with status ${answer.status}`;
    throw new Error(said?.error?.message ?? `${words}${said ? "" : ", but in no JSON"}.`);
  };

  // Text is only ever set as text, so nothing in an answer can become a part of the page.
  const add = (parent, name, text, kind) => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    parent.append(made);
    return made;
  };

  const addText = (parent, text) => { add(parent, "div", text, "text").dir = "auto"; };

  const written = (content) => (typeof content === "string" ? content : JSON.stringify(content));

  // Short answers that come again are labels. One that came once may be a slip of the pen.
  const findLabels = () => {
    const texts = [...list.children].map((card) => card.answer);
    const labels = [...new Set(texts.filter((text, i) => texts.indexOf(text) !== i))].sort();
    const areShort = labels.length <= 12 && labels.every((text) => text && text.length <= 40);
    const areMost = texts.filter((text) => labels.includes(text)).length >= 0.8 * texts.length;
    return areShort && areMost ? labels : [];
  };

  const show = (answer, isDrawn) => {
    const card = add(list, "article");
    card.tabIndex = -1;
    const message = answer.choices[0].message;
    const time = new Date(answer.created * 1000).toLocaleString();
    add(card, "h2", `${time}, version ${answer.version}`);
    const turns = answer.request.messages ?? [{ role: "user", content: answer.request.prompt }];
    for (const turn of turns) {
      add(card, "span", String(turn.role), "label");
      addText(card, written(turn.content));
    }
    add(card, "span", "answer", "label");
    addText(card, written(message.content ?? message.tool_calls ?? ""));
    const given = answer.metadata;
    const bar = add(card, "div", "", "bar");
    const form = add(card, "div");
    form.hidden = !given.correction && !given.reason;
    const box = add(add(form, "label", "Correction"), "textarea");
    box.dir = "auto";
    box.value = written(message.content ?? "");
    const untouched = box.value;
    box.value = given.correction ?? untouched;
    card.answer = box.value;
    const choices = add(form, "div", "", "bar labels");
    const offer = () => {
      choices.replaceChildren();
      for (const label of findLabels()) {
        const choice = add(choices, "button", label);
        choice.type = "button";
        choice.addEventListener("click", () => { box.value = label; });
      }
    };
    const end = add(form, "div", "", "bar");
    const why = add(add(end, "label", "Why "), "input");
    why.dir = "auto";
    why.value = given.reason ?? "";
    why.maxLength = 4000;
    const buttons = {};

    const save = async (rating) => {
      const correction = box.value === untouched ? "" : box.value;
      const fields = { id: answer.id, rating, reason: why.value };
      if (!form.hidden) fields.correction = correction;
      // The entry counts as an answer to a question only where the answer was drawn for review.
      if (isDrawn) fields.review = "drawn";
      try {
        await ask("/v1/feedback", fields);
        given.rating = rating;
        for (const each of ["up", "down"]) {
          buttons[each].setAttribute("aria-pressed", String(each === rating));
        }
        tell("Saved.");
      } catch (error) {
        tell(`Not saved: ${error.message}`);
      }
    };
    const button = (text, kind, act) => {
      buttons[kind] = add(bar, "button", text);
      buttons[kind].type = "button";
      buttons[kind].setAttribute("aria-pressed", String(given.rating === kind));
      buttons[kind].addEventListener("click", act);
    };
    const edit = () => { form.hidden = false; offer(); box.focus(); };
    button("👍 Good", "up", () => save("up"));
    button("👎 Bad", "down", () => save("down"));
    button("Correct", "edit", edit);
    buttons.edit.removeAttribute("aria-pressed");
    const done = add(end, "button", "Save the correction");
    done.type = "button";
    done.addEventListener("click", () => save(given.rating ?? "down"));
    card.act = { u: () => save("up"), d: () => save("down"), e: edit };
  };

  const load = async () => {
    const begun = round;
    const query = new URLSearchParams({ model: endpoint, limit: "20" });
    if (last) query.set("after", last);
    const wanted = find("filter").value;
    if (wanted === "drawn") query.set("drawn", "true");
    else if (wanted) query.set("metadata[rating]", wanted);
    try {
      const page = await ask(`/v1/chat/completions?${query}`);
      // Another choice was made meanwhile: these answers are not of it.
      if (begun !== round) return;
      page.data.forEach((answer) => show(answer, wanted === "drawn"));
      last = page.last_id ?? last;
      find("more").hidden = !page.has_more;
      tell(list.children.length ? "" : "There are no such answers yet.");
    } catch (error) {
      if (begun === round || !sessionStorage.getItem(stored)) tell(error.message);
    }
  };

  const restart = () => {
    last = "";
    round += 1;
    list.replaceChildren();
    tell("");
    const isOpen = Boolean(sessionStorage.getItem(stored));
    find("door").hidden = isOpen;
    find("bar").hidden = !isOpen;
    find("more").hidden = true;
    return isOpen ? load() : undefined;
  };

  const leave = () => { sessionStorage.removeItem(stored); restart(); };

  find("door").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(stored, find("key").value.trim());
    find("key").value = "";
    restart();
  });
  find("leave").addEventListener("click", leave);
  find("filter").addEventListener("change", restart);
  let isLoading = false;
  find("more").addEventListener("click", async () => {
    if (isLoading) return;
    isLoading = true;
    const shown = list.children.length;
    await load();
    list.children[shown]?.focus();
    isLoading = false;
  });
  document.addEventListener("keydown", (event) => {
    const active = document.activeElement;
    if (event.key === "Escape") active.closest("article")?.focus();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(active.tagName)) return;
    const cards = [...list.children];
    const place = cards.indexOf(active.closest("article"));
    if (event.key === "j" || event.key === "k") {
      const next = cards[Math.max(0, place + (event.key === "j" ? 1 : -1))];
      next?.focus();
      next?.scrollIntoView({ block: "nearest" });
    } else if (cards[place]?.act[event.key]) {
      event.preventDefault();
      cards[place].act[event.key]();
    }
  });
  restart();
})();
