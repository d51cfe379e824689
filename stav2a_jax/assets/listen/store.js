"use strict";
/* Answers live in localStorage from the first touch of a slider, one entry per trial, so that two windows of the same
   rater never overwrite each other's trials. Where the browser forbids it they live in memory, and the page says so. */

const Store = (() => {
  const memory = new Map();
  let kept = true;
  let prefix = "";

  function open(site) {
    prefix = `stav2a-listen/${site}/`;
    try {
      const probe = prefix + "probe";
      localStorage.setItem(probe, "1");
      kept = localStorage.getItem(probe) === "1";
      localStorage.removeItem(probe);
    } catch {
      kept = false;
    }
    return kept;
  }

  function read(name) {
    let text = memory.get(name) ?? null; // there only if it could not be stored
    try {
      text ??= localStorage.getItem(prefix + name);
    } catch {
      kept = false;
    }
    try {
      return text === null ? null : JSON.parse(text);
    } catch {
      return null; // a damaged entry: as if it were not there
    }
  }

  function write(name, value) {
    const text = JSON.stringify(value);
    try {
      localStorage.setItem(prefix + name, text);
      memory.delete(name);
    } catch {
      memory.set(name, text);
      kept = false; // full or forbidden
    }
  }

  return { open, read, write, isKept: () => kept };
})();
