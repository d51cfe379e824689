"use strict";
/* One video with its four sliders. A panel reads and changes `answer`, a plain object:
   {AQ, SA, TA, OQ: 1..100 once set; plays: how often it was watched to its end; failed: true if it does not play}. */

const Panel = (() => {
  let count = 0;

  const fromTemplate = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

  /* Whether (nearly) all of a video was really played since it was loaded; jumping to the end is not watching. */
  function watched(video) {
    let seconds = 0;
    for (let k = 0; k < video.played.length; k++) seconds += video.played.end(k) - video.played.start(k);
    return seconds >= 0.9 * video.duration;
  }

  function makeScale(scale, study, title, answer, changed) {
    const box = fromTemplate("scale-template");
    const parts = ["input", "label", "output", ".question"];
    const [slider, label, output, question] = parts.map((selector) => box.querySelector(selector));
    const id = `scale-${++count}`;
    slider.id = id;
    slider.name = scale.name;
    slider.min = study.lowest;
    slider.max = study.highest;
    label.htmlFor = id;
    output.htmlFor = id;
    question.id = `${id}-question`;
    label.textContent = scale.title;
    question.textContent = scale.question;
    slider.setAttribute("aria-describedby", question.id);
    if (title) {
      slider.setAttribute("aria-label", `${scale.title}, ${title}`);
      question.classList.add("only-read"); // on screen it stands once, above all panels
    }

    function show() {
      const set = answer[scale.name] !== undefined;
      box.classList.toggle("unset", !set);
      output.textContent = set ? String(answer[scale.name]) : "not set";
      slider.setAttribute("aria-valuetext", set ? String(answer[scale.name]) : "not set");
    }
    function take() {
      answer[scale.name] = Number(slider.value);
      box.classList.remove("missing");
      slider.removeAttribute("aria-invalid");
      show();
      changed();
    }
    slider.value = answer[scale.name] ?? Math.floor((study.lowest + study.highest) / 2);
    slider.addEventListener("input", take);
    // A tap on the place where the slider already stands is an answer too. Not "click": a click on the label is one.
    slider.addEventListener("pointerup", take);
    slider.addEventListener("keydown", (event) => {
      if (event.key === " ") {
        event.preventDefault();
        take();
      }
    });
    show();
    return { box, slider, name: scale.name };
  }

  /* Returns {element, missing(), stop()}; missing() lists {text, focus} of what is still to be done, and marks it. */
  function make(study, media, title, answer, changed, started) {
    const element = fromTemplate("panel-template");
    const find = (selector) => element.querySelector(selector);
    const parts = ["h2", "video", ".play", ".heard", ".broken", ".played > div"];
    const [heading, video, play, heard, broken, bar] = parts.map(find);
    heading.id = `panel-${++count}`;
    heading.textContent = title || "Clip and sliders";
    heading.classList.toggle("only-read", !title);
    element.setAttribute("aria-labelledby", heading.id);
    video.setAttribute("aria-label", title ? `Video of ${title}` : "Video");
    video.src = `media/${media}.mp4`;
    const scales = study.scales.map((scale) => makeScale(scale, study, title, answer, changed));
    find(".scales").append(...scales.map((scale) => scale.box));

    function show() {
      const done = (answer.plays ?? 0) > 0;
      element.classList.toggle("heard-out", done);
      heard.textContent = answer.failed ? "left out" : done ? "watched" : "not watched yet";
      play.textContent = video.paused ? (done ? "Play again" : "Play") : "Pause";
      play.setAttribute("aria-label", title ? `${play.textContent}, ${title}` : play.textContent);
    }
    const fail = () => (broken.hidden = Boolean(answer.failed));

    const toggle = () => (video.paused ? video.play().catch(() => video.error && fail()) : video.pause());

    play.addEventListener("click", toggle);
    video.addEventListener("click", toggle);
    video.addEventListener("timeupdate", () => {
      bar.style.width = `${(100 * video.currentTime) / video.duration || 0}%`;
    });
    video.addEventListener("play", () => {
      started(video);
      show();
    });
    video.addEventListener("pause", show);
    video.addEventListener("error", fail);
    video.addEventListener("ended", () => {
      if (watched(video)) {
        delete answer.failed;
        answer.plays = (answer.plays ?? 0) + 1;
        element.classList.remove("missing");
        changed();
      }
      show();
    });
    find(".retry").addEventListener("click", () => {
      broken.hidden = true;
      video.load();
      play.focus();
    });
    find(".leave").addEventListener("click", () => {
      answer.failed = true;
      broken.hidden = true;
      changed();
      show();
    });
    show();

    function missing() {
      if (answer.failed) return [];
      const of = title ? `${title}: ` : "";
      const out = [];
      const unheard = !((answer.plays ?? 0) > 0);
      element.classList.toggle("missing", unheard);
      if (unheard) out.push({ text: `${of}watch the clip to its end`, focus: play });
      const unset = scales.filter((scale) => answer[scale.name] === undefined);
      for (const scale of unset) {
        scale.box.classList.add("missing");
        scale.slider.setAttribute("aria-invalid", "true");
      }
      if (unset.length) {
        const names = unset.map((scale) => study.scales.find((s) => s.name === scale.name).title.toLowerCase());
        out.push({ text: `${of}set ${names.join(", ")}`, focus: unset[0].slider });
      }
      return out;
    }
    return { element, missing, video, stop: () => video.pause() };
  }

  return { make };
})();
