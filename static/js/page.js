// What every page shares: confirmation, copying, and the way to the log-in when a session has ended.
"use strict";

document.addEventListener("htmx:confirm", (event) => {
  const dialog = document.getElementById("confirm");
  event.preventDefault();
  document.getElementById("confirm-question").textContent = event.detail.ctx.confirm;
  dialog.returnValue = "";
  dialog.addEventListener(
    "close",
    () => (dialog.returnValue === "yes" ? event.detail.issueRequest() : event.detail.dropRequest()),
    { once: true },
  );
  dialog.showModal();
});

document.addEventListener("htmx:sse:error", (event) => {
  if (event.detail.status === 401) location.assign("/login");
});

// A form that was obeyed is ready for the next wish.
document.addEventListener("htmx:after:request", (event) => {
  const { sourceElement, response } = event.detail.ctx;
  if (sourceElement.matches("form[data-reset]") && response?.raw.ok) sourceElement.reset();
});

async function copy(text) {
  // The clipboard interface exists on HTTPS and localhost only; at home the appliance speaks plain HTTP.
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-code]");
  if (!button) return;
  const source = button.dataset.copy
    ? document.querySelector(button.dataset.copy)
    : button.closest(".code").querySelector("code");
  await copy(source.textContent);
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
});
