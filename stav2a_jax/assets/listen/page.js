"use strict";
/* The way through the test: start, training, trials, end. What is shown follows from (rater, place), both of which are
   stored, so that a reload ends where it began. */

(() => {
  const study = window.STUDY;
  const byId = (id) => document.getElementById(id);
  const TRAINING = [
    "The sound is clean, fits what is seen and comes at the right moments: high values are right on all " +
      "four sliders. Set your volume now and try the sliders; examples do not count.",
    "The same picture with a poor sound: noisy, of another thing, and at other moments. Low values are " +
      "right on all four sliders. Clips in the test lie anywhere between, and may be good on one slider and bad on " +
      "another.",
  ];
  const OWN_TRAINING = "An example. Set your volume now and try the sliders; this clip does not count.";
  const CHECK =
    "Attention check. Ignore the picture and count the beeps. Set all four sliders to ten times their number " +
    "(for 9 beeps, all four to 90).";

  let rater = null;
  let trials = []; // {kind, media: [id, ...]}
  let place = 0;
  let panels = [];
  let since = null; // when the clock of the shown trial last started

  const name = (what) => `${rater}/${what}`;
  const readTrial = (k) => Store.read(name(`trial/${k}`)) ?? { seconds: 0, answers: {} };

  function begin() {
    if (!study || study.format !== "stav2a-listen-page") {
      byId("damaged").hidden = false;
      return;
    }
    document.title = study.title;
    byId("title").textContent = study.title;
    byId("unkept").hidden = Store.open(study.site);
    const asked = new URLSearchParams(location.search).get("rater");
    fillStart(asked);
    const last = asked ?? Store.read("rater");
    if (last !== null && known(last) && Store.read(`${Number(last)}/started`)) enter(Number(last));
    else showStart();
  }

  const known = (number) => /^\d+$/.test(String(number)) && number >= 1 && number <= study.orders.length;

  function fillStart(asked) {
    const clips = study.orders[0].length;
    const amount = study.present === "side" ? `${clips} videos, each with several sounds` : `${clips} clips`;
    const examples = study.training.length === 1 ? "an example" : "two examples";
    byId("how-many").textContent = `There are ${amount}, after ${examples}.`;
    byId("about-checks").hidden = study.checks.length === 0;
    for (const list of document.querySelectorAll(".meaning")) {
      for (const scale of study.scales) {
        const [term, text] = [document.createElement("dt"), document.createElement("dd")];
        term.textContent = scale.title;
        text.textContent = scale.question;
        list.append(term, text);
      }
    }
    byId("number").max = study.orders.length;
    byId("number-help").textContent = `The number that you were given, 1 to ${study.orders.length}.`;
    if (asked !== null && known(asked)) byId("number").value = asked;
  }

  /* ---- pages ---- */

  function show(id) {
    for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== id;
    byId("footer").hidden = id !== "trial";
    byId("footer").querySelector("details").open = false;
    byId("where").hidden = byId("progress").hidden = id === "start";
    const heading = byId(id).querySelector("h1");
    heading.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  function showStart() {
    rater = null;
    show("start");
  }

  function enter(number) {
    rater = number;
    Store.write("rater", rater);
    if (!Store.read(name("started"))) Store.write(name("started"), new Date().toISOString());
    trials = [
      ...study.training.map((id) => ({ kind: "training", media: [id] })),
      ...study.orders[rater - 1].map((media) => ({
        kind: media.length === 1 && study.checks.includes(media[0]) ? "check" : "rating",
        media,
      })),
    ];
    go(Store.read(name("place")) ?? 0);
  }

  function go(to) {
    stopClock();
    for (const panel of panels) panel.stop();
    place = Math.min(Math.max(Number(to) || 0, 0), trials.length);
    Store.write(name("place"), place);
    byId("progress").max = trials.length;
    byId("progress").value = place;
    if (place === trials.length) showEnd();
    else showTrial();
  }

  function showTrial() {
    const { kind, media } = trials[place];
    const rated = trials.length - study.training.length;
    const number = place - study.training.length + 1;
    const training = kind === "training";
    const heading = training ? `Example ${place + 1} of ${study.training.length}` : `Clip ${number} of ${rated}`;
    byId("trial").querySelector("h1").textContent = heading;
    byId("where").textContent = `Rater ${rater}`;
    const note = training ? (study.explained ? TRAINING[place] : OWN_TRAINING) : kind === "check" ? CHECK : "";
    byId("note").textContent = note;
    byId("note").hidden = !note;
    byId("problem").hidden = true;
    byId("back").hidden = place === 0;

    const trial = readTrial(place);
    const shown = place;
    const changed = () => {
      // read again: only this trial's answers are ours, its clock may have moved on
      Store.write(name(`trial/${shown}`), { ...readTrial(shown), answers: trial.answers });
      byId("unkept").hidden = Store.isKept();
      if (!byId("problem").hidden) remind(); // what was asked for and is done now is not asked for any longer
    };
    const started = (video) => panels.filter((panel) => panel.video !== video).forEach((panel) => panel.stop());
    panels = media.map((id, k) => {
      trial.answers[id] ??= {};
      const title = media.length > 1 ? `Version ${k + 1}` : "";
      return Panel.make(study, id, title, trial.answers[id], changed, started);
    });
    byId("panels").className = media.length > 1 ? "side" : "one";
    byId("reminder").hidden = media.length === 1; // with one panel the questions stand at the sliders
    byId("panels").replaceChildren(...panels.map((panel) => panel.element));
    startClock();
    show("trial");
    preload(place + 1);
  }

  let waiting = []; // videos of the next trial, so that it starts at once

  function preload(k) {
    waiting = (trials[k]?.media ?? []).map((id) => {
      const video = document.createElement("video");
      video.preload = "auto";
      video.src = `media/${id}.mp4`;
      return video;
    });
  }

  function showEnd() {
    panels = [];
    byId("panels").replaceChildren();
    if (!Store.read(name("finished"))) Store.write(name("finished"), new Date().toISOString());
    byId("where").textContent = `Rater ${rater}`;
    byId("contact").textContent = study.contact ? `Please send the file to: ${study.contact}` : "";
    byId("contact").hidden = !study.contact;
    byId("done").textContent = "";
    byId("text").value = exported();
    show("end");
    byId("footer").hidden = false;
  }

  function next() {
    const missing = remind();
    if (!missing.length) go(place + 1);
    else missing[0].focus.focus();
  }

  /* Says what is missing, and gives it back. */
  function remind() {
    const missing = panels.flatMap((panel) => panel.missing());
    const [problem, text] = [byId("problem"), `Please ${missing.map((m) => m.text).join("; ")}.`];
    problem.hidden = missing.length === 0;
    if (missing.length && problem.textContent !== text) problem.textContent = text;
    return missing;
  }

  /* ---- time on a trial, without the time in which the page is not seen ---- */

  function startClock() {
    if (since === null && !document.hidden) since = performance.now();
  }

  function stopClock() {
    if (since === null) return;
    const trial = readTrial(place);
    trial.seconds = Math.round(100 * (trial.seconds + (performance.now() - since) / 1000)) / 100;
    since = null;
    Store.write(name(`trial/${place}`), trial);
  }

  /* ---- answers as a file ---- */

  function exported() {
    const answers = trials.flatMap(({ kind, media }, k) => {
      const trial = readTrial(k);
      return media
        .filter((id) => trial.answers[id])
        .map((id) => {
          const { plays = 0, failed = false, ...values } = trial.answers[id];
          const row = { trial: k, kind, media: id, plays, seconds: trial.seconds };
          if (failed) row.failed = true;
          const complete = study.scales.every((scale) => values[scale.name] !== undefined);
          // half an answer is none: it is kept here, and exported once it is whole
          for (const scale of study.scales) row[scale.name] = complete && !failed ? values[scale.name] : null;
          return row;
        });
    });
    const data = {
      format: "stav2a-listen-answers",
      version: study.version,
      site: study.site,
      rater,
      present: study.present,
      started: Store.read(name("started")),
      finished: Store.read(name("finished")),
      answers,
    };
    return JSON.stringify(data, null, 1) + "\n";
  }

  function download() {
    stopClock();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
    link.download = `answers-${study.site}-rater-${String(rater).padStart(2, "0")}.json`;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    byId("done").textContent = `Saved as ${link.download}, where this browser puts downloads.`;
    if (place < trials.length) startClock();
  }

  async function copy() {
    byId("text").value = exported();
    try {
      await navigator.clipboard.writeText(byId("text").value);
      byId("done").textContent = "Copied. Paste it into a message and send it.";
    } catch {
      byId("text").closest("details").open = true;
      byId("text").focus();
      byId("text").select();
      byId("done").textContent = "This browser does not let the page copy; please copy the selected text yourself.";
    }
  }

  /* ---- what is clicked ---- */

  byId("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    const number = byId("number").value.trim();
    const problem = byId("number-problem");
    problem.hidden = known(number);
    if (known(number)) return enter(Number(number));
    problem.textContent = `Please enter a whole number from 1 to ${study.orders.length}.`;
    byId("number").focus();
  });
  byId("rating").addEventListener("submit", (event) => {
    event.preventDefault();
    next();
  });
  byId("back").addEventListener("click", () => go(place - 1));
  byId("again").addEventListener("click", () => go(place - 1));
  byId("copy").addEventListener("click", copy);
  byId("other").addEventListener("click", () => {
    stopClock();
    for (const panel of panels) panel.stop();
    Store.write("rater", null);
    byId("number").value = "";
    showStart();
  });
  for (const button of document.querySelectorAll(".download")) button.addEventListener("click", download);
  document.addEventListener("visibilitychange", () => {
    if (rater === null || place >= trials.length) return;
    if (document.hidden) stopClock();
    else startClock();
  });
  window.addEventListener("pagehide", () => {
    if (rater !== null && place < trials.length) stopClock();
  });
  window.addEventListener("beforeunload", (event) => {
    if (rater !== null && !Store.isKept()) event.preventDefault();
  });

  begin();
})();
