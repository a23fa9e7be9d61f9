// Moves a cursor over each picture with the player's time; a click on a picture moves the player.
const player = document.querySelector("audio");
const lines = [...document.querySelectorAll(".cursor")];

function fraction(line) {
  return Math.min(player.currentTime / Number(line.dataset.seconds), 1);
}

function follow() {
  for (const line of lines) {
    const { left, width } = line.dataset;
    line.style.left = `${100 * (Number(left) + Number(width) * fraction(line))}%`;
  }
  requestAnimationFrame(follow);
}

if (player) {
  follow();
  for (const line of lines) {
    line.parentElement.addEventListener("click", (event) => {
      const { left, width, seconds } = line.dataset;
      const box = line.parentElement.getBoundingClientRect();
      const clicked = ((event.clientX - box.left) / box.width - Number(left)) / Number(width);
      player.currentTime = Math.max(0, Math.min(clicked * Number(seconds), player.duration || 0));
    });
  }
}
