for (const select of document.querySelectorAll("select[data-runs]")) {
  const runs = document.getElementById(select.dataset.runs).querySelectorAll(".run");
  const show = () => {
    for (const run of runs) run.hidden = run.id !== select.value;
  };
  select.addEventListener("change", show);
  show();
}
