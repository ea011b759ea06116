-- SPDX-License-Identifier: BSD-2-Clause
-- Wireshark's and tshark's view of the link between two prl nodes (docs/protocol.md). Use:
--
--     tshark -X lua_script:prl.lua -r link.pcap        or copy it into Wireshark's plugin folder
--
-- The rows below are written from userspace/wire/wire.def.

local prl = Proto("prl", "Packet replication link")

local HEADER, ELEMENT_HEADER, MANDATORY = 16, 8, 0x8000
local VERSION_MAX, LENGTH_MAX, PORT = 1, 66560, 7077

local messages, elements, reasons, flags, phases = {}, {}, {}, {}, {}

local function message(name, kind, fixed_bytes, since)
    messages[kind] = {name = name, fixed_bytes = fixed_bytes, since = since, fields = {}}
    messages[name] = messages[kind]
end

local function field(of, name, offset, width, unit)
    table.insert(messages[of].fields, {name = name, offset = offset, width = width, unit = unit})
end

local function element(name, kind, mandatory, since, what)
    elements[kind] = {name = name, since = since, what = what}
end

local function reason(number, words)
    reasons[number] = words
end

local function phase(number, name)
    phases[number] = name
end

local function flag(group, bit, name)
    flags[group] = flags[group] or {}
    flags[group][bit] = name
end

-- facts: rows, which `make facts` writes
message("HELLO", 1, 4, 1)
field("HELLO", "version_min", 0, 1, "protocol version")
field("HELLO", "version_max", 1, 1, "protocol version")
field("HELLO", "node_index", 2, 1, "0 or 1")
field("HELLO", "unused", 3, 1, "zero")
message("LEASE", 2, 20, 1)
field("LEASE", "sent_ns", 0, 8, "ns, sender's CLOCK_BOOTTIME")
field("LEASE", "echo_ns", 8, 8, "ns, newest sent_ns received; 0 = none in this epoch")
field("LEASE", "flags", 16, 4, "PRL_LEASE_*")
message("REPLICATE", 3, 8, 1)
field("REPLICATE", "space", 0, 4, "absolute right edge, TCP sequence number")
field("REPLICATE", "lif", 4, 2, "logical interface id")
field("REPLICATE", "packet_flags", 6, 2, "PRL_PACKET_*")
message("ACK", 4, 8, 1)
field("ACK", "space", 0, 4, "absolute right edge, TCP sequence number")
field("ACK", "reason", 4, 1, "PRL_REASON_*; 0 = OK, others are NACKs")
field("ACK", "unused", 5, 3, "zero")
message("FLOWCTL", 5, 4, 1)
field("FLOWCTL", "space", 0, 4, "absolute right edge, TCP sequence number")
message("OUTPUT", 6, 8, 1)
field("OUTPUT", "tcp_seq", 0, 4, "TCP sequence number of the first payload byte")
field("OUTPUT", "flags", 4, 1, "PRL_OUTPUT_*")
field("OUTPUT", "unused", 5, 1, "zero")
field("OUTPUT", "urgent", 6, 2, "bytes of the payload up to and with the urgent one; 0 = none")
message("OUTPUT_ACK", 7, 8, 1)
field("OUTPUT_ACK", "tcp_seq", 0, 4, "the shadow has sent everything before this TCP sequence number")
field("OUTPUT_ACK", "reason", 4, 1, "PRL_REASON_*")
field("OUTPUT_ACK", "unused", 5, 3, "zero")
message("SETUP", 8, 8, 1)
field("SETUP", "generation", 0, 4, "snapshot count of the flow")
field("SETUP", "flags", 4, 1, "PRL_SETUP_*")
field("SETUP", "unused", 5, 3, "zero")
message("SETUP_DONE", 9, 12, 1)
field("SETUP_DONE", "generation", 0, 4, "snapshot count of the flow")
field("SETUP_DONE", "space", 4, 4, "absolute right edge, TCP sequence number")
field("SETUP_DONE", "reason", 8, 1, "PRL_REASON_*")
field("SETUP_DONE", "unused", 9, 3, "zero")
message("VOID", 10, 8, 1)
field("VOID", "generation", 0, 4, "snapshot count of the flow")
field("VOID", "reason", 4, 1, "PRL_REASON_*")
field("VOID", "unused", 5, 3, "zero")
message("VOID_ACK", 11, 4, 1)
field("VOID_ACK", "generation", 0, 4, "snapshot count of the flow")
message("CLOSE", 12, 4, 1)
field("CLOSE", "generation", 0, 4, "snapshot count of the flow")
message("ERROR", 13, 4, 1)
field("ERROR", "reason", 0, 1, "PRL_REASON_*")
field("ERROR", "unused", 1, 3, "zero")
message("RENOUNCE", 14, 4, 1)
field("RENOUNCE", "service", 0, 4, "service index")
message("OFFER", 15, 4, 1)
field("OFFER", "unused", 0, 4, "zero")
message("COMPARE", 16, 24, 1)
field("COMPARE", "out_seq", 0, 4, "message number of the output")
field("COMPARE", "rcv_nxt", 4, 4, "TCP sequence number")
field("COMPARE", "snd_una", 8, 4, "TCP sequence number")
field("COMPARE", "compare_flags", 12, 4, "PRL_COMPARE_*")
field("COMPARE", "hash", 16, 8, "running hash of the packets up to seq")
message("SWITCHOVER", 17, 16, 1)
field("SWITCHOVER", "service", 0, 4, "service index")
field("SWITCHOVER", "move", 4, 4, "number of the attempt, the owner's count")
field("SWITCHOVER", "flows", 8, 4, "flows to be moved, or usable shadows")
field("SWITCHOVER", "phase", 12, 1, "PRL_PHASE_*")
field("SWITCHOVER", "reason", 13, 1, "PRL_REASON_*")
field("SWITCHOVER", "flags", 14, 1, "PRL_MOVE_*")
field("SWITCHOVER", "unused", 15, 1, "zero")
message("RELAY", 18, 4, 1)
field("RELAY", "lif", 0, 2, "logical interface id")
field("RELAY", "packet_flags", 2, 2, "PRL_PACKET_*")
message("EXPOSED", 19, 4, 1)
field("EXPOSED", "unused", 0, 4, "zero")
message("RESYNC", 20, 28, 1)
field("RESYNC", "generation", 0, 4, "snapshot count of the flow")
field("RESYNC", "out_seq", 4, 4, "message number of the output that is expected next")
field("RESYNC", "space", 8, 4, "absolute right edge, TCP sequence number")
field("RESYNC", "refused", 12, 4, "newest message number of the input that was refused for want of space")
field("RESYNC", "flags", 16, 1, "PRL_RESYNC_*")
field("RESYNC", "unused", 17, 3, "zero")
field("RESYNC", "hash", 20, 8, "running hash of the packets before seq")
message("MIRRORED", 21, 16, 1)
field("MIRRORED", "space", 0, 4, "absolute right edge, TCP sequence number")
field("MIRRORED", "lif", 4, 2, "logical interface id")
field("MIRRORED", "packet_flags", 6, 2, "PRL_PACKET_*")
field("MIRRORED", "number", 8, 4, "of its frames on the cable")
field("MIRRORED", "bytes", 12, 4, "bytes of the packet from the L3 header on")
element("PACKET", 1, 1, 1, "packet from the L3 header on")
element("PAYLOAD", 2, 1, 1, "TCP payload of the application's output")
element("SNAPSHOT", 3, 1, 1, "a piece of an encoded snapshot")
element("NODE_NAME", 4, 1, 1, "UTF-8")
element("EPOCH", 5, 1, 1, "64 bits, proposed by node 0")
element("CAPABILITIES", 6, 0, 1, "64 bits, PRL_CAP_*")
element("CLAIM_TOKEN", 7, 1, 1, "16 bytes: without CLAIM_MAC a claim of the sender's carries this")
element("LAN_KEY", 8, 1, 1, "32 bytes: half of what the keys of claims and LAN heartbeats come from")
element("SERVICE", 9, 1, 1, "msgpack: name, addresses, state, term of one service")
element("APPLICATION", 10, 0, 1, "opaque bytes that the primary's application gave with the socket")
element("ENDPOINT", 11, 1, 1, "UTF-8 address:port that an application on the sender waits for shadows of")
element("TEXT", 12, 0, 1, "UTF-8, a reason in words")
element("ELIDED", 13, 1, 1, "in place of PACKET: 8 bytes of the L3 header, the packet from L4 on")
element("MOMENT", 14, 1, 1, "in place of SNAPSHOT: what of a prepared snapshot moves")
element("ECHO_WAIT", 15, 0, 1, "64 bits, ns: how long the sent_ns that this LEASE echoes had waited for it")
element("TIMING", 16, 0, 1, "msgpack: lease_ms, suspect_ms, takeover_ms, hold_ms of the sender")
element("SESSIONS", 17, 1, 1, "msgpack: sessions that the sender alone has, and some that are over, or not its alone any more")
reason(0, "ok")
reason(1, "no receive space")
reason(2, "invalid handle")
reason(3, "flow is not active")
reason(4, "the other node did not answer in time")
reason(5, "link lost")
reason(6, "no application waits for the shadow")
reason(7, "application is gone")
reason(8, "shadow could not be built")
reason(9, "primary and shadow differ")
reason(10, "requested")
reason(11, "session ended")
reason(12, "no memory")
reason(13, "malformed")
reason(14, "the standby's program gave other output")
reason(15, "the standby's program cannot begin in mid-stream")
reason(16, "that node does not own the service")
reason(17, "a session is not protected")
reason(18, "a move is under way already")
reason(19, "the lease is over")
reason(20, "the other node does not hear the LAN")
reason(21, "its output could leave without being held")
reason(22, "its input comes in by an interface without prl's programs")
reason(23, "its output leaves by an interface without prl's programs")
reason(24, "sessions that prld was not asked for would be lost")
reason(25, "the standby's program wrote into its shadow")
reason(26, "its peer's datagrams come several in a packet")
flag("LEASE", 0, "BUSY")
flag("PACKET", 0, "CSUM_PARTIAL")
flag("PACKET", 1, "ICMP")
flag("OUTPUT", 0, "FIN")
flag("OUTPUT", 1, "RST")
flag("SETUP", 0, "LAST")
flag("SETUP", 1, "PREPARE")
flag("SETUP", 2, "QUEUES")
flag("COMPARE", 0, "SOCKET")
flag("MOVE", 0, "FORCED")
flag("RESYNC", 0, "REFUSED")
flag("RESYNC", 1, "END")
flag("CAP", 0, "OUTPUT")
flag("CAP", 1, "UDP")
flag("CAP", 2, "NACK_RETRY")
flag("CAP", 3, "COMPARE")
flag("CAP", 4, "L3_ELISION")
flag("CAP", 5, "SWITCHOVER")
flag("CAP", 6, "PREPARE")
flag("CAP", 7, "CLAIM_MAC")
flag("CAP", 8, "KERNEL_ANSWERS")
flag("CAP", 9, "EXPOSED")
flag("CAP", 10, "RESYNC")
flag("CAP", 11, "LONG_MOMENT")
flag("CAP", 12, "MIRROR")
phase(1, "REQUEST")
phase(2, "PREPARE")
phase(3, "PREPARED")
phase(4, "COMMIT")
phase(5, "TAKEN")
phase(6, "REFUSED")
phase(7, "RELAY_END")
-- facts: end

-- what can be filtered for: prl.type, prl.handle …, and prl.MESSAGE.FIELD, prl.ELEMENT in lower case

local names, element_names = {}, {}
for kind, known in pairs(messages) do
    if type(kind) == "number" then names[kind] = known.name end
end
for kind, known in pairs(elements) do element_names[kind] = known.name end

local shown = {
    version = ProtoField.uint8("prl.version", "Version"),
    kind = ProtoField.uint8("prl.type", "Type", base.DEC, names),
    flags = ProtoField.uint16("prl.flags", "Flags", base.HEX),
    length = ProtoField.uint32("prl.length", "Length", base.DEC),
    handle = ProtoField.uint32("prl.handle", "Handle", base.HEX),
    seq = ProtoField.uint32("prl.seq", "Sequence number", base.DEC),
    element = ProtoField.uint16("prl.element", "Element", base.DEC, element_names, MANDATORY - 1),
    mandatory = ProtoField.bool("prl.element.mandatory", "Mandatory", 16, nil, MANDATORY),
    value_bytes = ProtoField.uint32("prl.element.length", "Length of the value", base.DEC),
    unknown = ProtoField.bytes("prl.unknown", "Of a later version"),
}

local function number_field(width, filter, label, base_, values)
    if width == 1 then return ProtoField.uint8(filter, label, base_, values) end
    if width == 2 then return ProtoField.uint16(filter, label, base_) end
    if width == 3 then return ProtoField.uint24(filter, label, base_) end
    if width == 4 then return ProtoField.uint32(filter, label, base_) end
    return ProtoField.uint64(filter, label, base_)
end

for kind, known in pairs(messages) do
    if type(kind) == "number" then
        for _, one in ipairs(known.fields) do
            one.group = one.unit:match("^PRL_(%u+)_%*")
            local is_flags = flags[one.group] ~= nil
            local values = one.group == "REASON" and reasons or one.group == "PHASE" and phases or nil
            local filter = ("prl.%s.%s"):format(known.name:lower(), one.name)
            one.shown = number_field(one.width, filter, one.name, is_flags and base.HEX or base.DEC, values)
            shown[filter] = one.shown
        end
    end
end

local TEXTS = {NODE_NAME = true, ENDPOINT = true, TEXT = true}
local NUMBERS = {EPOCH = true, CAPABILITIES = true}
for _, known in pairs(elements) do
    local filter = "prl." .. known.name:lower()
    if TEXTS[known.name] then
        known.shown = ProtoField.string(filter, known.name, base.UNICODE)
    elseif NUMBERS[known.name] then
        known.shown = ProtoField.uint64(filter, known.name, base.HEX)
    else
        known.shown = ProtoField.bytes(filter, known.name)
    end
    shown[filter] = known.shown
end

prl.fields = shown

local malformed = ProtoExpert.new("prl.malformed", "Malformed message", expert.group.MALFORMED, expert.severity.ERROR)
local later = ProtoExpert.new("prl.later", "Of a later protocol version", expert.group.UNDECODED, expert.severity.WARN)
local refused = ProtoExpert.new("prl.refused", "Refused or ended", expert.group.RESPONSE_CODE, expert.severity.NOTE)
prl.experts = {malformed, later, refused}

-- dissection

local function flag_names(group, value)
    local found = {}
    for bit_number, name in pairs(flags[group] or {}) do
        if value:rshift(bit_number):band(1) == UInt64(1) then table.insert(found, name) end
    end
    table.sort(found)
    return #found > 0 and " (" .. table.concat(found, ", ") .. ")" or ""
end

local function add_fixed(range, known, tree)
    local words = ""
    for _, one in ipairs(known.fields) do
        local part = range(one.offset, one.width)
        if one.name ~= "unused" then
            local item = tree:add(one.shown, part)
            item:append_text(" [" .. one.unit .. "]")
            if flags[one.group] then item:append_text(flag_names(one.group, UInt64(part:uint()))) end
            if one.group == "REASON" and part:uint() ~= 0 then
                words = words .. ": " .. (reasons[part:uint()] or "reason " .. part:uint())
                item:add_proto_expert_info(refused)
            end
        end
    end
    return words
end

local function add_element(range, tree)
    local kind = range(0, 2):uint()
    local known = elements[kind % MANDATORY]
    local bytes = range(4, 4):uint()
    local branch = tree:add(prl, range, "Element: " .. (known and known.name or "unknown"))
    branch:add(shown.element, range(0, 2))
    branch:add(shown.mandatory, range(0, 2))
    branch:add(shown.value_bytes, range(4, 4))
    if not known then
        branch:add_proto_expert_info(later)
        if bytes > 0 then branch:add(shown.unknown, range(ELEMENT_HEADER, bytes)) end
    elseif bytes > 0 then
        local value = range(ELEMENT_HEADER, bytes)
        if NUMBERS[known.name] and bytes ~= 8 then
            branch:add(shown.unknown, value)
            return
        end
        local item = branch:add(known.shown, value)
        if known.name == "CAPABILITIES" then item:append_text(flag_names("CAP", value:uint64())) end
    end
end

-- Returns whether they are well-formed: every element lies within the message.
local function add_elements(range, tree)
    local at, size = 0, range:len()
    while at < size do
        if size - at < ELEMENT_HEADER then return false end
        local bytes = range(at + 4, 4):uint()
        local whole = ELEMENT_HEADER + bytes + (-bytes % 4)
        if whole > size - at then return false end
        add_element(range(at, whole), tree)
        at = at + whole
    end
    return true
end

local function is_message(range)
    local length = range(4, 4):uint()
    return range(0, 1):uint() >= 1 and length >= HEADER and length <= LENGTH_MAX and length % 4 == 0
end

local function length_of(buffer, _, offset)
    local head = buffer(offset, 8)
    return is_message(head) and head(4, 4):uint() or buffer:len() - offset
end

local function dissect_message(buffer, pinfo, tree)
    local branch = tree:add(prl, buffer())
    if buffer:len() < HEADER or not is_message(buffer(0, 8)) then
        branch:append_text(", not a message; did the capture begin in the middle of a connection?")
        branch:add_proto_expert_info(malformed)
        return buffer:len()
    end
    local kind = buffer(1, 1):uint()
    local known = messages[kind]
    local name = known and known.name or "type " .. kind
    branch:add(shown.version, buffer(0, 1))
    branch:add(shown.kind, buffer(1, 1))
    branch:add(shown.flags, buffer(2, 2))
    branch:add(shown.length, buffer(4, 4))
    branch:add(shown.handle, buffer(8, 4))
    branch:add(shown.seq, buffer(12, 4))
    local words = ""
    if not known or buffer(0, 1):uint() > VERSION_MAX then
        branch:add_proto_expert_info(later)
        if buffer:len() > HEADER then branch:add(shown.unknown, buffer(HEADER)) end
    elseif buffer:len() < HEADER + known.fixed_bytes then
        branch:add_proto_expert_info(malformed)
    else
        local rest = HEADER + known.fixed_bytes
        words = add_fixed(buffer(HEADER, known.fixed_bytes), known, branch)
        if buffer:len() > rest and not add_elements(buffer(rest), branch) then
            branch:add_proto_expert_info(malformed)
        end
    end
    local flow = buffer(8, 4):uint()
    local about = flow ~= 0 and (" %x/%u"):format(flow, buffer(12, 4):uint()) or ""
    branch:append_text(", " .. name .. about .. words)
    pinfo.cols.info:append(" " .. name .. about .. words .. ";")
    return buffer:len()
end

function prl.dissector(buffer, pinfo, tree)
    pinfo.cols.protocol = "PRL"
    pinfo.cols.info = ""
    dissect_tcp_pdus(buffer, tree, 8, length_of, dissect_message)
end

DissectorTable.get("tcp.port"):add(PORT, prl)
