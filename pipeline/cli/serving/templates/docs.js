"use strict";
document.querySelector("#origin").textContent = location.origin;
