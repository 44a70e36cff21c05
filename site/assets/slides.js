(() => {
  const slides = [...document.querySelectorAll(".slide")];
  const where = document.getElementById("where");
  const notes = document.getElementById("notes");
  const number = () => Math.min(slides.length, Math.max(1, parseInt(location.hash.slice(1), 10) || 1));

  // What is higher or wider than the screen is shown smaller, as far as it can still be read. A phone scrolls.
  const controls = document.querySelector(".controls");
  const fit = () => {
    const body = slides[number() - 1].querySelector(".body");
    const whole = () => body.getBoundingClientRect().bottom + scrollY <= innerHeight - controls.offsetHeight
      && [...body.querySelectorAll("pre, .scroll")].every((box) => box.scrollWidth <= box.clientWidth + 1);
    body.style.removeProperty("--fit");
    for (let size = 0.95; size >= 0.65 && innerWidth > 800 && !whole(); size -= 0.05) body.style.setProperty("--fit", size);
  };

  const show = () => {
    const at = number();
    slides.forEach((slide, index) => slide.classList.toggle("now", index + 1 === at));
    where.textContent = where.dataset.text.replace("{n}", at).replace("{total}", slides.length);
    scrollTo(0, 0);
    dispatchEvent(new Event("resize"));
  };
  const go = (at) => {
    const target = Math.min(slides.length, Math.max(1, at));
    if (target !== number()) location.hash = target;
  };
  const toggle = () => {
    const on = document.body.classList.toggle("noted");
    notes.setAttribute("aria-pressed", on);
  };

  document.body.classList.add("running");
  addEventListener("hashchange", show);
  addEventListener("resize", fit, true);
  document.fonts.ready.then(fit);
  document.getElementById("back").addEventListener("click", () => go(number() - 1));
  document.getElementById("forth").addEventListener("click", () => go(number() + 1));
  notes.addEventListener("click", toggle);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inControl = event.target.closest("button, a, summary, input");
    if (event.key === " " && inControl) return;
    // Code and tables that are wider than the slide are moved with the arrows.
    const scrolls = event.target.closest('[tabindex="0"]');
    const keys = {
      ArrowRight: () => !scrolls && go(number() + 1), ArrowLeft: () => !scrolls && go(number() - 1),
      PageDown: () => go(number() + 1), PageUp: () => go(number() - 1), " ": () => go(number() + (event.shiftKey ? -1 : 1)),
      Home: () => go(1), End: () => go(slides.length), n: toggle, N: toggle, Escape: () => document.getElementById("leave").click(),
    };
    if (keys[event.key] && keys[event.key]() !== false) event.preventDefault();
  });
  show();
})();
