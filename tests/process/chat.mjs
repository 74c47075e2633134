// Two clients made of npm `ws` that chat in a room, for test_javascript.py: the gateway's URL is the argument, what happened goes to stdout as JSON.

import { once } from 'node:events'
import WebSocket from 'ws'

const [url, mode] = process.argv.slice(2)

class Client {
  constructor(user) {
    this.inbox = []
    this.waiting = []
    this.socket = new WebSocket(`${url}/ws?user_id=${user}`, ['ringgate.v1.json'], { perMessageDeflate: mode === 'deflate' })
    this.socket.on('message', (data, isBinary) => {
      if (isBinary) throw new Error('the JSON codec sends text')
      this.inbox.push(JSON.parse(data))
      this.waiting.splice(0).forEach(wake => wake())
    })
  }

  send(request) {
    this.socket.send(JSON.stringify(request))
  }

  // The next message of that type; others before it are dropped.
  async expect(type) {
    for (;;) {
      while (this.inbox.length) {
        const message = this.inbox.shift()
        if (message.type === type) return message
      }
      await new Promise(wake => this.waiting.push(wake))
    }
  }
}

const deadline = setTimeout(() => { console.error('not done within 20 s'); process.exit(1) }, 20_000)
const alice = new Client('alice-js')
const bob = new Client('bob-js')
for (const client of [alice, bob]) {
  await client.expect('auth:ok')
  client.send({ type: 'join', id: 1, roomId: 'javascript' })
  await client.expect('ok')
}
const contents = []
for (let number = 0; number < 100; number++) {
  alice.send({ type: 'message', roomId: 'javascript', content: { number, filler: 'ö'.repeat(number * 20) } })
  contents.push((await bob.expect('message')).content.number)
}
const big = 'a long text, '.repeat(4000)
alice.send({ type: 'send_message', target_user: 'bob-js', content: big, id: 'big' })
const intact = (await bob.expect('message')).content === big
const { status } = await alice.expect('ok')
const pong = once(alice.socket, 'pong')
alice.socket.ping('hello')
const [payload] = await pong
bob.socket.close(4321, 'enough')
const [code] = await once(bob.socket, 'close')
const left = await alice.expect('user:left')
console.log(JSON.stringify({
  protocol: alice.socket.protocol, extensions: alice.socket.extensions, contents, intact, status, pong: payload.toString(), code, left: left.userId,
}))
alice.socket.close()
await once(alice.socket, 'close')
clearTimeout(deadline)
