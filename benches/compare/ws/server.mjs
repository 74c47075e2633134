// npm `ws`: the same small part of the protocol as the other rivals (see ../src/lib.rs).
import { WebSocketServer } from "ws";

const rooms = new Map();
let count = 0;

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096, perMessageDeflate: false });
server.on("listening", () => console.log(`127.0.0.1:${server.address().port}`));
server.on("connection", (socket, request) => {
  socket.on("error", () => {});
  const url = new URL(request.url, "ws://localhost");
  if (url.pathname === "/echo") {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  } else {
    gateway(socket, url.searchParams.get("user_id"));
  }
});

function gateway(socket, user) {
  const joined = [];
  socket.send(JSON.stringify({ type: "auth:ok", userId: user }));
  socket.on("message", (data) => {
    const { type, id, roomId, content } = JSON.parse(data);
    if (type === "join") {
      if (!rooms.has(roomId)) rooms.set(roomId, new Set());
      rooms.get(roomId).add(socket);
      joined.push(roomId);
      if (id !== undefined) socket.send(JSON.stringify({ type: "ok", id }));
    } else if (type === "message") {
      const message = { type: "message", id: String(++count), from: user, content, timestamp: Date.now(), roomId };
      // Encoded once for everybody.
      const bytes = Buffer.from(JSON.stringify(message));
      for (const member of rooms.get(roomId) ?? []) if (member !== socket) member.send(bytes, { binary: false });
    }
  });
  socket.on("close", () => joined.forEach((room) => rooms.get(room)?.delete(socket)));
}
