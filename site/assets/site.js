(() => {
  const root = document.documentElement;
  const remember = (key, value) => {
    try {
      localStorage.setItem(key, value);
    } catch {
      // See theme.js.
    }
  };
  const recall = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };

  document.getElementById("theme")?.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember("theme", root.dataset.theme);
  });

  const menu = document.getElementById("menu");
  const lessons = document.getElementById("lessons");
  const show = (open) => {
    menu.setAttribute("aria-expanded", open);
    lessons.classList.toggle("open", open);
  };
  menu?.addEventListener("click", () => show(menu.getAttribute("aria-expanded") !== "true"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && menu?.getAttribute("aria-expanded") === "true") {
      show(false);
      menu.focus();
    }
  });

  // The twin of a section has the same name in the other language.
  const twin = document.getElementById("twin");
  if (twin) {
    const page = twin.getAttribute("href");
    const follow = () => twin.setAttribute("href", page + location.hash);
    addEventListener("hashchange", follow);
    follow();
  }

  // A link may lead into a question that is folded.
  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();

  const contents = document.querySelector(".contents details");
  if (contents && !matchMedia("(min-width: 75rem)").matches) contents.open = false;

  // What can be scrolled sideways can be reached with the keyboard.
  const reach = () => {
    for (const box of document.querySelectorAll(".scroll, pre")) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);
  document.fonts?.ready.then(reach);
  reach();

  // A reader's ticks stay, in this browser.
  document.querySelectorAll("input.task-list-item-checkbox").forEach((box, number) => {
    const key = `tick ${location.pathname.split("/").pop()} ${number}`;
    box.checked = recall(key) === "yes";
    box.addEventListener("change", () => remember(key, box.checked ? "yes" : "no"));
  });
})();
