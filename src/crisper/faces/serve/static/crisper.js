"use strict";

// What the server says is put in as nodes that its own page holds; no text becomes HTML here.
(() => {
  const said = document.getElementById("said");
  const say = (sentence) => { if (said) said.textContent = sentence; };

  const isInUse = (region) =>
    region.contains(document.activeElement) ||
    [...region.querySelectorAll("input")].some((input) => input.value) ||
    [...region.querySelectorAll("output")].some((output) => output.textContent);

  async function reload() {
    const regions = [...document.querySelectorAll("[data-live]")];
    if (!regions.length) return;
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "manual" });
    if (answer.type === "opaqueredirect") return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (regions.some((region) => !fresh.getElementById(region.id))) {
      location.reload(); // it has become another page: an error, or no error any more
      return;
    }
    let changed = false;
    for (const region of regions) {
      const next = fresh.getElementById(region.id);
      if (region.isEqualNode(next)) continue;
      if (region.dataset.live === "still" && isInUse(region)) continue; // somebody is deciding on what they saw
      if (region.contains(document.activeElement)) {
        const focused = document.activeElement.getAttribute("href");
        region.replaceWith(document.adoptNode(next));
        const again = focused && [...document.querySelectorAll("a[href]")].find((a) => a.getAttribute("href") === focused);
        if (again) again.focus({ preventScroll: true });
      } else {
        region.replaceWith(document.adoptNode(next));
      }
      changed = true;
    }
    return changed;
  }

  // All open pages are told at once: each takes its turn within a second, and one that nobody sees when it is seen.
  let due = 0;
  const soon = () => {
    if (document.hidden) return document.addEventListener("visibilitychange", soon, { once: true });
    due = due || setTimeout(() => {
      due = 0;
      reload().then((changed) => changed && say("Updated.")).catch(() => say("The server does not answer."));
    }, Math.random() * 1000);
  };

  // A browser has six connections to a site, all its pages together, and each stream keeps one of them. So one
  // page listens, and tells the others; where there are no locks (http from elsewhere), those that are seen listen.
  const others = new BroadcastChannel("crisper-live");
  others.addEventListener("message", soon);

  function listen(url, ended) {
    const source = new EventSource(url);
    source.addEventListener("changed", () => { soon(); others.postMessage("changed"); });
    source.addEventListener("error", () => {
      const over = source.readyState === EventSource.CLOSED;
      say(over ? "Live updates have ended: load the page again." : "Live updates are interrupted, and go on by themselves.");
      if (over) ended();
    });
    return source;
  }

  function takeTurns(url) {
    navigator.locks.request("crisper-live", () => new Promise((ended) => {
      const source = listen(url, ended);
      addEventListener("pagehide", () => { source.close(); ended(); }, { once: true });
    }));
  }

  function whileSeen(url) {
    let source = null;
    const look = () => {
      if (source) source.close();
      source = document.hidden ? null : listen(url, () => {});
    };
    document.addEventListener("visibilitychange", look);
    addEventListener("pagehide", () => source && source.close());
    look();
  }

  // Ages grow though nothing happens.
  const REFRESH_MS = 10000;
  const refresh = () => {
    if (!document.hidden && getSelection().isCollapsed) reload().catch(() => {});
  };

  function told(form) {
    const body = Object.fromEntries(new FormData(form).entries());
    if (form.dataset.attempt) {
      body.attempt = Number(form.dataset.attempt);
      body.state = form.dataset.state;
    }
    if (form.dataset.tasks) {
      body.tasks = JSON.parse(form.dataset.tasks);
      body.confirm = Number(body.confirm);
    }
    return body;
  }

  async function post(form) {
    const token = document.querySelector('meta[name="csrf"]');
    const headers = { "Content-Type": "application/json" };
    if (token) headers["X-CSRF-Token"] = token.content;
    const answer = await fetch(form.dataset.post, { method: "POST", headers, body: JSON.stringify(told(form)) });
    const heard = await answer.json();
    if (answer.ok && form.dataset.then !== undefined) {
      location.assign(form.dataset.then || location.href);
      return "";
    }
    const [task] = heard.tasks || [];
    if (heard.said) return heard.said;
    return task ? task.reason || task.outcome : heard.error ? heard.error.message : "Done.";
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.post) return;
    event.preventDefault();
    const button = form.querySelector("button");
    const output = form.querySelector("output");
    button.disabled = true;
    post(form)
      .catch(() => "The server does not answer. Nothing is known of what became of it: load the page again.")
      .then((sentence) => {
        button.disabled = false;
        if (output) output.textContent = sentence;
        say(sentence);
        return reload();
      })
      .catch(() => {});
  });

  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const search = document.getElementById("q");
    if (search) { event.preventDefault(); search.focus(); }
  });

  const from = document.body.dataset.liveFrom;
  if (from && document.querySelector("[data-live]")) {
    (navigator.locks ? takeTurns : whileSeen)(from);
    if (navigator.locks) addEventListener("pageshow", (event) => event.persisted && takeTurns(from));
    soon(); // what changed since the page was drawn nobody has told it
    setInterval(refresh, REFRESH_MS);
  }
})();
